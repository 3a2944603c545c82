import pytest

from qra.callbacks import TrainingDiagnostics

GOOD = {
    "val/clean_acc": 0.6,
    "val/clean_loss": 1.1,
    "val/robust_acc": 0.3,
    "val/robust_loss": 1.9,
    "train/robust_acc": 0.3,
}


def after(*epochs, patience=3):
    diagnostics = TrainingDiagnostics(patience=patience)
    return [diagnostics.findings({**GOOD, **changes}, epoch, 10) for epoch, changes in enumerate(epochs)]


def test_a_healthy_run_is_left_in_peace():
    assert after({}, {}, {}, {}, {}) == [[]] * 5


def test_an_attack_that_does_not_raise_the_loss_is_named():
    (found,) = after({"val/robust_loss": 1.1, "val/robust_acc": 0.6})
    assert len(found) == 1
    assert "not generated properly" in found[0]


def test_an_attack_that_breaks_examples_at_a_lower_mean_loss_is_an_attack():
    assert after({"val/robust_loss": 1.0}) == [[]]


def test_accuracy_at_chance_is_named_once_patience_is_over():
    stuck = {"val/clean_acc": 0.1}
    assert [len(found) for found in after(stuck, stuck, stuck, stuck)] == [0, 0, 1, 1]
    assert "chance is 10.0%" in after(stuck, stuck, stuck)[2][0]


def test_robust_overfitting_is_named_with_its_epochs():
    runs = [
        {"val/robust_acc": v, "train/robust_acc": t}
        for v, t in [(0.3, 0.3), (0.35, 0.36), (0.34, 0.4), (0.33, 0.5), (0.32, 0.6)]
    ]
    found = after(*runs)
    assert [len(messages) for messages in found] == [0, 0, 0, 0, 1]
    assert "since epoch 2, robust accuracy fell from 35.0% to 32.0%" in found[4][0]


def test_a_fall_in_training_too_is_no_overfitting():
    runs = [{"val/robust_acc": v, "train/robust_acc": v} for v in (0.35, 0.3, 0.28, 0.25, 0.2)]
    assert after(*runs) == [[]] * 5


def test_state_survives_a_resumption():
    first = TrainingDiagnostics()
    first.findings(GOOD, 0, 10)
    second = TrainingDiagnostics()
    second.load_state_dict(first.state_dict())
    worse = {**GOOD, "val/robust_acc": 0.2, "train/robust_acc": 0.5}
    assert len(second.findings(worse, 4, 10)) == 1


def test_chance_after_the_first_epoch_is_named_at_once_if_the_run_started_from_trained_weights():
    at_chance = {**GOOD, "val/clean_acc": 0.1}
    assert TrainingDiagnostics().findings(at_chance, 0, 10) == []
    (message,) = TrainingDiagnostics().findings(at_chance, 0, 10, trained_start=True)
    assert "though init_from gave trained weights" in message
    assert TrainingDiagnostics().findings(GOOD, 0, 10, trained_start=True) == []


@pytest.mark.parametrize(
    ("distances", "warned"),
    [
        ([0.9, 0.9, 0.9, 0.89, 0.9], [0, 0, 0, 1, 1]),
        ([0.9, 0.8, 0.7, 0.65, 0.6], [0, 0, 0, 0, 0]),
        ([0.2, 0.2, 0.2, 0.2, 0.2], [0, 0, 0, 0, 0]),
    ],
    ids=["far", "closing", "near"],
)
def test_a_student_that_stays_far_from_its_teacher_is_named(distances, warned):
    found = after(*({"train/teacher_kl": distance} for distance in distances))
    assert [len(messages) for messages in found] == warned
    assert all("far from its teacher and not getting closer" in message for messages in found for message in messages)


def test_the_students_distances_survive_a_resumption():
    first = TrainingDiagnostics()
    far = {**GOOD, "train/teacher_kl": 0.9}
    assert not any(first.findings(far, epoch, 10) for epoch in range(3))
    second = TrainingDiagnostics()
    second.load_state_dict(first.state_dict())
    assert len(second.findings(far, 3, 10)) == 1


@pytest.mark.parametrize("settings", [{"patience": 0}, {"fall": 0}, {"fall": 1}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ValueError, match=r"(patience|fall) is .*: it must be"):
        TrainingDiagnostics(**settings)
