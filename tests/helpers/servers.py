"""A reward model's server in this process, on a free port."""

import contextlib
import dataclasses
import json
import threading
import time
from pathlib import Path

import rmexp
from rmexp.evaluation.calibration import Calibration
from rmexp.serve.access import listen
from rmexp.serve.app import create_app
from rmexp.serve.limits import RequestLimits
from rmexp.serve.model_info import describe_model
from rmexp.serve.server import Server
from rmexp.serve.service import RewardService
from tests.helpers.options import from_conf

CALIBRATION = Calibration(
    temperature=0.5,
    pairs=10,
    reward_mean=0.25,
    reward_std=2.0,
    affine=(1.0, 3.0),
    isotonic=((-5.0, 5.0), (1.0, 5.0)),
)

LIMITS = RequestLimits(body_bytes=100_000, characters=3000, texts=16, tokens=400)


def write_model(home: Path, calibration: Calibration | None = CALIBRATION, seed: int = 1) -> Path:
    """A tiny reward model with random weights as a Hugging Face directory."""
    source = from_conf("model/tiny", seed=seed)
    tokenizer = source.load_tokenizer()
    from_conf("template/tokenizer").install(tokenizer)
    model = source.load_model(tokenizer, seed)
    model.save_pretrained(home)
    tokenizer.save_pretrained(home)
    if calibration is not None:
        (home / "calibration.json").write_text(json.dumps(calibration.to_dict()))
    return home


def make_service(home: Path, queue_texts=64, wait_seconds=0.0, limits=LIMITS, **more):
    """The service of a model directory."""
    scorer = rmexp.load(home, precision="32-true", max_length=limits.tokens, **more)
    scales = tuple(name for name, reason in scorer.scales().items() if reason is None)
    info = describe_model(home, home.name, scorer.max_length, scales, "LABEL_0")
    limits = dataclasses.replace(limits, tokens=scorer.max_length)
    return RewardService(scorer, info, limits, queue_texts, wait_seconds)


@contextlib.contextmanager
def running(service, token=None):
    """The URL of a server that serves the service until the block ends."""
    address = listen("127.0.0.1", 0, token)
    ready = threading.Event()
    server = Server(create_app(service, token), ready.set)
    thread = threading.Thread(target=server.run, args=([address],))
    port = address.getsockname()[1]
    thread.start()
    try:
        while not ready.wait(0.05):
            assert thread.is_alive()
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


def wait_until(condition):
    """Wait until a condition holds."""
    while not condition():
        time.sleep(0.005)
