"""Settings of Sphinx; `make docs` builds, and any warning fails. Nothing is fetched."""

from gcvit_mm import __version__

project = 'gcvit_mm'
author = 'gcvit_mm contributors'
copyright = 'gcvit_mm contributors'  # noqa: A001 (the name is Sphinx's)
release = __version__

extensions = [
    'myst_parser',
    'sphinx.ext.autodoc',
    'sphinx.ext.napoleon',
    'sphinx.ext.viewcode',
    'sphinx_copybutton',
]
exclude_patterns = ['_build']
nitpicky = False

html_theme = 'furo'
html_title = f'gcvit_mm {release}'
html_show_copyright = False
html_static_path = ['_static']
html_css_files = ['figures.css']

myst_heading_anchors = 3
copybutton_prompt_text = r'>>> |\.\.\. |\$ '
copybutton_prompt_is_regexp = True

autodoc_member_order = 'bysource'
autodoc_typehints = 'description'
autodoc_typehints_description_target = 'documented'
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
