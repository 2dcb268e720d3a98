from billhook import native


def test_the_library_loads_and_has_this_abi_version() -> None:
    kernels = native.library()
    if kernels is not None:
        assert kernels.billhook_abi_version() == native.ABI_VERSION
