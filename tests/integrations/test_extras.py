import importlib
import sys

import pytest


@pytest.mark.parametrize("extra", ["lightning", "transformers"])
def test_a_missing_framework_names_the_extra(extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, f"billhook.integrations.{extra}", raising=False)
    for name in (extra, f"{extra}.pytorch"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=rf"pip install 'billhook\[{extra}\]'"):
        importlib.import_module(f"billhook.integrations.{extra}")
