"""The records of a study's runs: small files from which it resumes."""
