"""What every test of the report asks of a page: each number is its query's, and none stands alone."""

from __future__ import annotations

import base64
import math
import re
from typing import Any

import pytest
from report.trees import Node, parse

from nncift_core.report import page as page_module
from nncift_core.report import render
from nncift_core.store.views import connect
from nncift_core.store.workspace import Workspace
from nncift_core.text import clip, one_line, visible

# What may hold digits without a query: terms, and names of parts of the method.
TERMS = ("ROUGE-1", "Q1", "Q2", "Q3", "Q4", "R2", "90 %", "top 10 %", "Top 10 %")


def values_of(element: Any) -> list[tuple[str, str | None]]:
    """Shown text and exact value of every value that an element with a query carries, in order."""
    cells = element.all("td") if element.tag == "table" else [element]
    return [(c.text, c.attributes.get("data-value")) for c in cells]


def check_values(page: Node, ws: Workspace) -> int:
    """Ask every query of the page again and compare each value; returns how many there were."""
    body = page.all("body")[0]
    own = body.attributes["data-run"]
    with connect(ws, own) as one, connect(ws, "all") as every:
        connections = {own: one, "all": every}
        return sum(_check_element(e, connections[e.attributes.get("data-run", own)]) for e in body.all())


def _check_element(element: Any, connection: Any) -> int:
    """Compare what one element shows with what its query gives."""
    sql = element.attributes.get("data-sql")
    if sql is None:
        return 0
    expected = [v for r in connection.execute(sql).fetchall() for v in r]
    shown = values_of(element)
    assert element.tag == "table" or len(shown) == 1
    if element.tag != "table" and not expected:
        expected = [None]
    assert len(shown) == len(expected), sql
    for (text, exact), value in zip(shown, expected, strict=True):
        _check(text, exact, value, sql)
    return len(shown)


def _check(text: str, exact: str | None, value: Any, sql: str) -> None:
    if exact is None:
        assert value is None or isinstance(value, str), (sql, text)
        long, short = visible(clip(value or "", 400)), one_line(value or "", 80)
        assert text.strip() in ((long.strip(), short.strip()) if value is not None else ("–",)), (
            sql,
            text,
            value,
        )
    elif exact == "":
        assert value is None and text == "–", (sql, text)
    else:
        assert math.isclose(float(exact), value, rel_tol=1e-9), (sql, exact, value)
        digits = re.sub(r"[^0-9.e+-]", "", text)
        assert digits.strip("+-.") and float(digits) == pytest.approx(
            value * (100 if "%" in text and "<" not in text else 1),
            rel=0.01,
            abs=0.11 if "%" in text else 0.06,
        ), (sql, text, value)


def free_digits(node: Any) -> list[str]:
    """Texts with digits that stand outside what carries a query, texts of data and code."""
    if (
        node.tag in ("pre", "blockquote", "code", "style", "title")
        or "data-sql" in node.attributes
        and node.tag == "span"
    ):
        return []
    found = []
    for child in node.children:
        if not isinstance(child, str):
            if not (node.tag == "tr" and child.tag == "td"):
                found += free_digits(child)
        else:
            text = child
            for term in TERMS:
                text = text.replace(term, "")
            found += [text] if re.search(r"\d", text) else []
    return found


def section(page: Node, anchor: str) -> Node:
    """The section of that name."""
    return next(s for s in page.all("section") if s.attributes["id"] == anchor)


def alone(make: Any, ws: Workspace, run: str, monkeypatch: pytest.MonkeyPatch) -> Node:
    """One section of a run's page, without the time that the others take."""
    monkeypatch.setattr(page_module, "SECTIONS", (make,))
    return parse(render(ws, run)).all("section")[0]


def drawings(page: Node) -> list[str]:
    """The page's plots as SVG text."""
    images = page.all("img")
    return [base64.b64decode(i.attributes["src"].partition(",")[2]).decode() for i in images]
