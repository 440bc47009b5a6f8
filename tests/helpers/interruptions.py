"""A run that stops in the middle, for tests that resume it."""

from contextlib import contextmanager

from rmexp.training.callbacks import ResumeCheckpoint


@contextmanager
def interrupted_after(step, monkeypatch):
    """Ctrl-C when the resume checkpoint of a step was written."""
    before = ResumeCheckpoint._save

    def save(self, trainer):
        before(self, trainer)
        if trainer.global_step == step:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ResumeCheckpoint, "_save", save)
        yield
