"""The table of mutants fits the kernels: each changes the code it means, at one place an edit.

That a gate stops each of them is asked by ``test_cuda_gates.py``, which needs g++; this does not.
"""

from __future__ import annotations

import re

import pytest
from cuda_on_cpu import mutants
from cuda_on_cpu.build import _without_comments
from cuda_on_cpu.cupy_on_cpu import installed
from cuda_on_cpu.mutants import MUTANTS, RACES, WRONG, Edit

SOURCES = mutants.pristine()


def code(text: str) -> list[str]:
    """Its tokens, without comments."""
    return re.findall(r"\w+|[^\w\s]", _without_comments(text))


@pytest.mark.parametrize("name", MUTANTS)
def test_each_edit_has_one_place_and_changes_code(name: str) -> None:
    """In the kernel as it is, whatever the other edits of this mutant do; and nothing more: a
    comment within what is put there, on one line now, would take the code behind it along."""
    for edit in MUTANTS[name]:
        before, after = code(SOURCES[edit.file]), code(edit(SOURCES[edit.file]))
        assert after != before, edit
        assert len(before) - len(after) == len(code(edit.old)) - len(code(edit.new)), edit


def test_no_two_mutants_are_one() -> None:
    assert not set(RACES) & set(WRONG)
    assert len(set(MUTANTS.values())) == len(MUTANTS)


@pytest.mark.parametrize("old", ["__syncthreads();", "no such text"])
def test_a_text_that_is_not_there_once_is_refused(old: str) -> None:
    with pytest.raises(LookupError, match=r"is \d+ times in tile.cuh, not once"):
        Edit("tile.cuh", old, "")(SOURCES["tile.cuh"])


def test_a_mutant_is_planted_in_its_file_alone_and_taken_out_again() -> None:
    with installed():
        from gpubp.kernels.cuda.source import source

        def text() -> str:
            return source("next_steps", "float32", BLOCK=64)

        clean = text()
        with mutants.planted("NEXT_STEPS_WITHOUT_BARRIER"):
            assert text().count("__syncthreads();") == clean.count("__syncthreads();") - 1
        with mutants.planted("SLICES_WITHOUT_BARRIER"):  # of tile.cuh, which is not included
            assert text() == clean
        with mutants.planted(None):
            assert text() == clean
        assert text() == clean


def test_the_kernels_know_nothing_of_mutants() -> None:
    assert not [name for name, text in SOURCES.items() if "mutant" in text.lower()]
