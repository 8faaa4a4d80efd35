"""The text of a loss: what it means, what is refused, and that torch is not needed to say so."""

import doctest
import re
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import qamro_cache.settings as declarations
from qamro_cache.losses import loss
from qamro_cache.losses.loss import Loss, Term, parse_loss
from qamro_cache.losses.terms import PARAMETERS, TERMS


def values_of(parameter):
    """Any value that a parameter may have."""
    if parameter.kind is str:
        return st.sampled_from(parameter.choices)
    return st.floats(0, 1e300, exclude_min=parameter.above == 0)


@st.composite
def any_term(draw):
    name = draw(st.sampled_from(list(TERMS)))
    pairs = [(p.name, draw(values_of(p))) for p in TERMS[name].parameters]
    weight = draw(st.floats(0, exclude_min=True, allow_infinity=False))
    raw_only = dict(pairs).get("bins")
    units = "raw" if raw_only else draw(st.sampled_from(TERMS[name].units))
    return name, weight, tuple(draw(st.permutations(pairs))), units


@st.composite
def any_loss(draw):
    drawn = draw(st.lists(any_term(), min_size=1, max_size=4))
    # The terms of one loss are relative to one range.
    other = draw(st.sampled_from(["train", "scale"]))
    return Loss(
        tuple(
            Term(
                name,
                weight,
                tuple((k, other if k == "normalize" and v != "batch" else v) for k, v in pairs),
                units,
            )
            for name, weight, pairs, units in drawn
        )
    )


@given(any_loss())
@settings(max_examples=300, deadline=None)
def test_a_loss_is_read_as_it_is_written(loss):
    again = parse_loss(str(loss))
    assert again == loss
    assert hash(again) == hash(loss)
    assert str(again) == str(loss)
    assert (again.structure, again.numbers) == (loss.structure, loss.numbers)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("huber(delta=1)+qamro(alpha=0.2,beta=7)", "huber@raw+qamro@raw"),
        ("qamro(beta=7.5, alpha=.3)", "qamro(alpha=0.3,beta=7.5)@raw"),
        (" 2 * huber ( delta = 3 ) @ standardized + mse ", "2*huber(delta=3)@standardized+mse@raw"),
        ("1e+3*margin(width=2e+1)+1.e-1*mae", "1000*margin(width=20)@raw+0.1*mae@raw"),
        ("1E+30*huber(delta=1e+30)", "1e+30*huber(delta=1e+30)@raw"),
        ("1.2345678901234*mse", "1.2345678901234*mse@raw"),
        ("qamro(bins=aes-PQ)", "qamro(bins=aes-PQ)@raw"),
        ("listmle()", "listmle@raw"),
        ("1*approx_ndcg(temperature=0.1)", "approx_ndcg@raw"),
    ],
)  # fmt: skip
def test_the_canonical_text(text, canonical):
    assert str(parse_loss(text)) == canonical
    assert parse_loss(text) == parse_loss(canonical)


def test_what_a_loss_says_of_itself():
    loss = parse_loss("2*huber@standardized+qamro(alpha=0.3,normalize=scale)+listnet")
    assert loss.numbers == (2, 1, 1, 0.3, 7, 1, 1)
    same = parse_loss("huber(delta=3)@standardized+qamro+listnet", {"normalize": "scale"})
    assert loss.structure == same.structure
    assert loss.structure != parse_loss("2*huber@standardized+qamro+listnet").structure
    assert loss.structure != parse_loss("huber+qamro(normalize=scale)+listnet").structure
    assert loss.takes("temperature")
    assert not loss.takes("width")
    assert loss.label_range == "scale"
    plain = parse_loss("huber+qamro(bins=aes-PQ)+qamro(normalize=batch)")
    assert plain.label_range == ""
    assert dict(loss.terms[1].parameters) == {
        "alpha": 0.3, "beta": 7.0, "normalize": "scale", "bins": "",
    }  # fmt: skip


def test_the_short_way_fills_every_term_that_takes_it():
    loss = parse_loss("listnet+0.5*spearman+mse", {"temperature": 2})
    assert loss == parse_loss("listnet(temperature=2)+0.5*spearman(temperature=2)+mse")
    assert parse_loss("qamro(beta=3)", {"alpha": 0.5}) == parse_loss("qamro(alpha=0.5,beta=3)")
    assert parse_loss("qamro", {"bins": "aes-CE"}) == parse_loss("qamro(bins=aes-CE)")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("hubert", "there is no 'hubert' among .*; did you mean 'huber'?"),
        ("huber(delta=1)x", "'huber(delta=1)x' is not [weight*]name"),
        ("huber(delta=1)(delta=1)", "is not [weight*]name"),
        ("huber@raw@raw", "is not [weight*]name"),
        ("2*3*huber", "is not [weight*]name"),
        ("", "a term is empty"),
        ("huber+", "a term is empty"),
        ("huber++mse", "a term is empty"),
        ("+huber", "a term is empty"),
        ("2*", "there is no '' among"),
        ("qamro(alpha=1", "brackets do not match"),
        ("qamro)alpha=1(", "brackets do not match"),
        ("qamro((alpha=1))", "brackets do not match"),
        ("x*huber", "weight 'x' is not a number"),
        ("-1*huber", "weight of huber must be above 0 and finite, got -1.0"),
        ("0*huber", "weight of huber must be above 0 and finite, got 0.0"),
        ("inf*huber", "weight of huber must be above 0 and finite, got inf"),
        ("nan*huber", "weight of huber must be above 0 and finite, got nan"),
        ("huber@meters", "units of huber is 'meters': use raw or standardized"),
        ("huber@", "units of huber is '': use raw or standardized"),
        ("qamro(alfa=1)", "qamro has no parameter 'alfa' (it has alpha, beta, normalize, bins)"),
        ("qamro(alfa=1)", "; did you mean 'alpha'?"),
        ("mse(delta=1)", "mse has no parameter 'delta' (it has none)"),
        ("qamro(alpha)", "'alpha' is not key=value"),
        ("qamro(alpha=1,)", "'' is not key=value"),
        ("qamro(bins=)", "'bins=' is not key=value"),
        ("qamro(alpha=1,alpha=1)", "qamro has alpha twice"),
        ("qamro(alpha=x)", "alpha must be a number, got 'x'"),
        ("qamro(alpha=-1)", "alpha must be at least 0, got -1.0"),
        ("qamro(alpha=nan)", "alpha must be at least 0, got nan"),
        ("qamro(beta=inf)", "beta must be finite, got inf"),
        ("huber(delta=0)", "delta must be above 0, got 0.0"),
        ("huber(delta=inf)", "delta must be finite, got inf"),
        ("margin(width=-1)", "width must be at least 0, got -1.0"),
        ("spearman(temperature=0)", "temperature must be above 0, got 0.0"),
        ("qamro(normalize=tran)", "normalize must be one of batch, train, scale, got 'tran'; did"),
        ("qamro(bins=aes-XX)", "bins must be one of aes-PQ, aes-PC, aes-CE, aes-CU, got 'aes-XX'"),
        ("qamro(bins=aes-PQ)@standardized", "bins of qamro are of raw labels: write qamro@raw"),
        ("qamro+qamro(normalize=scale)", "share one of them"),
    ],
)  # fmt: skip
def test_each_mistake_is_one_line(text, said):
    with pytest.raises(ValueError, match=re.escape(said).replace(r"\.\*", ".*")) as error:
        parse_loss(text)
    assert f"loss is {text!r}: " in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "parameters", "said"),
    [
        ("huber", {"alpha": 0.5}, "alpha is given, but no term of the loss 'huber' takes it"),
        ("huber", {"alfa": 0.5}, "alfa is given, but no term of the loss 'huber' takes it"),
        ("qamro(alpha=1)", {"alpha": 1.0}, "alpha is in the text and given besides it"),
        ("qamro(alpha=1)+qamro@standardized", {"alpha": 1.0}, "alpha is in the text and given"),
        ("qamro", {"alpha": -1}, "^alpha must be at least 0, got -1"),
        ("qamro", {"alpha": "0.5"}, "^alpha must be a number, got '0.5'"),
        ("huber", {"delta": float("inf")}, "^delta must be finite, got inf"),
        ("qamro@standardized", {"bins": "aes-PQ"}, "bins of qamro are of raw labels"),
    ],
)
def test_each_mistake_of_the_short_way_is_one_line(text, parameters, said):
    with pytest.raises(ValueError, match=said):
        parse_loss(text, parameters)


def test_parameters_are_declared_once():
    assert set(PARAMETERS) == {p.name for info in TERMS.values() for p in info.parameters}
    assert {"alpha", "beta", "delta"} <= set(PARAMETERS)
    assert PARAMETERS["temperature"].default_help == (
        "1 for ranknet, listnet and ranknet_pairs; 0.1 for approx_ndcg and spearman"
    )
    for info in TERMS.values():
        for parameter in info.parameters:
            assert parameter.kind in (float, int, str)
            assert parameter.check(parameter.default) == parameter.default
            assert parameter.help.endswith(".")


def test_a_loss_is_refused_without_torch():
    code = (
        "import sys\n"
        "from qamro_cache.losses.loss import parse_loss\n"
        "from qamro_cache.training.recipe import make_recipe\n"
        "print(parse_loss('huber(delta=2)+qamro'))\n"
        "try:\n    make_recipe({'loss': 'qamro(alpha=x)'})\n"
        "except ValueError as error:\n    print(error)\n"
        "print('torch' in sys.modules)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, second, loaded = run.stdout.splitlines()
    assert first == "huber(delta=2)@raw+qamro@raw"
    assert second == "loss is 'qamro(alpha=x)': alpha must be a number, got 'x'"
    assert loaded == "False"


def test_the_examples_of_the_docstrings_hold():
    assert doctest.testmod(declarations) == (0, 1)
    outcome = doctest.testmod(loss)
    assert outcome.attempted >= 3
    assert outcome.failed == 0
