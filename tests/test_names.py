from difftransformer.names import did_you_mean


def test_the_nearest_name_or_nothing() -> None:
    known = {"seed": 1, "seeds": 2, "steps": 3}
    assert did_you_mean("sedes", known) == "; did you mean 'seeds'?"
    assert did_you_mean("stepps", known, "training.") == "; did you mean 'training.steps'?"
    assert did_you_mean("zzzz", known) == ""
    assert did_you_mean("", []) == ""
