"""What mmengine asks of a package whose models ``mmengine.hub.get_model`` builds."""


def register_all_modules(init_default_scope: bool = True) -> None:
    """Register everything: importing the package has done it.

    Args:
        init_default_scope: Of no use here: all is in mmengine's root registries, which every scope
            searches.
    """
