"""How masks are drawn and put in force on each kind of device."""
