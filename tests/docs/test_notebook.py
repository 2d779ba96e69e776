"""The notebook of the documentation runs from its first cell to its last."""

import doctest
import re

import pytest

from support.running import ROOT

PAGE = ROOT / 'docs/notebook.md'


class Checker(doctest.OutputChecker):
    """Compares what the page shows; what is printed where it shows nothing is other packages'."""

    def check_output(self, want, got, optionflags):
        return not want or super().check_output(want, got, optionflags)


@pytest.mark.filterwarnings('ignore')
def test_notebook(monkeypatch):
    """Cell by cell in one namespace."""
    pytest.importorskip('mmdet')
    monkeypatch.chdir(ROOT)
    cells = '\n'.join(re.findall(r'```pycon\n(.*?)```', PAGE.read_text(), re.S))
    test = doctest.DocTestParser().get_doctest(cells, {}, PAGE.name, str(PAGE), 0)
    assert len(test.examples) > 20
    said = []
    doctest.DocTestRunner(Checker(), verbose=False).run(test, out=said.append)
    assert not said, ''.join(said)
