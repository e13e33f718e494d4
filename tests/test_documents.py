"""The documents hang together: what a link of theirs names is there, and a table of contents names every section."""
import glob
import os
import re

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
DOCUMENTS = sorted(os.path.relpath(path, ROOT) for pattern in ('*.md', 'docs/*.md')
                   for path in glob.glob(os.path.join(ROOT, pattern)))


def read(path):
    """A document's text without its blocks of code."""
    with open(os.path.join(ROOT, path)) as f:
        return re.sub(r'^```.*?^```', '', f.read(), flags=re.DOTALL | re.MULTILINE)


def anchors(path):
    """Of a document's headings, as code hosts make them: lower case, no punctuation, hyphens for spaces."""
    headings = re.findall(r'^#+ (.+)', read(path), re.MULTILINE)
    return [re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-') for heading in headings]


def links(path):
    return [target for target in re.findall(r'\]\(([^)\s]+)\)', read(path)) if '://' not in target]


def broken(path):
    """What the links of a document name and is not there."""
    found = []
    for link in links(path):
        place, _, anchor = link.partition('#')
        target = os.path.normpath(os.path.join(os.path.dirname(path), place)) if place else path
        if not os.path.exists(os.path.join(ROOT, target)) or anchor and anchor not in anchors(target):
            found.append(link)
    return found


@pytest.mark.parametrize('path', DOCUMENTS)
def test_every_link_leads_somewhere(path):
    assert not broken(path)


@pytest.mark.parametrize('path', DOCUMENTS)
def test_no_two_headings_have_one_anchor(path):
    assert len(set(anchors(path))) == len(anchors(path))


@pytest.mark.parametrize('path', [path for path in DOCUMENTS if path.startswith('docs/')])
def test_a_table_of_contents_names_every_section(path):
    sections = re.findall(r'^## (.+)', read(path), re.MULTILINE)
    assert re.findall(r'^- \[(.+)\]\(#', read(path), re.MULTILINE) == sections


def test_every_document_is_reached_from_the_readme():
    reached, new = set(), ['README.md']
    while new:
        path = new.pop()
        reached.add(path)
        new += {os.path.normpath(os.path.join(os.path.dirname(path), link.partition('#')[0] or os.path.basename(path)))
                for link in links(path) if '.md' in link or link.startswith('#')} - reached
    assert reached == set(DOCUMENTS)


def test_the_readme_stays_short():
    with open(os.path.join(ROOT, 'README.md')) as f:
        assert len(f.readlines()) <= 130


def test_the_tests_that_show_how_to_add_something_are_there():
    named = re.findall(r'`(tests/\w+\.py)`', read('CONTRIBUTING.md'))
    assert len(named) >= 4 and all(os.path.exists(os.path.join(ROOT, path)) for path in named), named
