"""task=serve: the rewards of a model over HTTP."""

import dataclasses
import importlib.util
import json
import os
import shlex
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Gt, Le

from rmexp.config.trust import Trust
from rmexp.core.console import Reporter
from rmexp.core.errors import UserError
from rmexp.evaluation.aggregate import Aggregate, Aggregation, LcbLambda
from rmexp.evaluation.calibration import load_calibration
from rmexp.inference.checkpoint import with_others
from rmexp.inference.ensemble import EnsembleScorer
from rmexp.inference.scorer import open_scorer
from rmexp.templates.template import Template, template_fingerprint
from rmexp.tracking.environment import describe_environment
from rmexp.tracking.run_directory import RunDirectory
from rmexp.training.trainer import TrainerSettings

SERVER_PACKAGES = ("fastapi", "uvicorn", "prometheus_client")


def serve(
    checkpoint: str | list[str],
    model: Any,
    template: Template,
    trainer: TrainerSettings,
    run: RunDirectory,
    reporter: Reporter,
    trained_max_length: int | None,
    host: str,
    port: Annotated[int, Ge(0), Le(65535)],
    token: str | None,
    max_length: Annotated[int, Ge(1)] | None,
    max_characters: Annotated[int, Ge(1)],
    max_texts: Annotated[int, Ge(1)],
    max_body_mib: Annotated[float, Gt(0)],
    queue_texts: Annotated[int, Ge(1)],
    batch_tokens: Annotated[int, Ge(1)],
    batch_wait_ms: Annotated[float, Ge(0)],
    trust: Trust,
    aggregate: Aggregate | None,
    lcb_lambda: LcbLambda,
) -> dict[str, float]:
    """Answer requests until SIGTERM or Ctrl-C; what is waited for then is answered first.

    Args:
        checkpoint: the run or Hugging Face directory that `model` loads from, or a list of these,
            which answers as an ensemble.
        trained_max_length: of the checkpoint's run; None: no run.

    The others are the keys of conf/task/serve.yaml.

    Raises:
        UserError: a package is missing, the address cannot be used, or the checkpoint is no reward
            model.
    """
    check_packages()
    from rmexp.serve.access import listen
    from rmexp.serve.app import create_app
    from rmexp.serve.limits import RequestLimits
    from rmexp.serve.model_info import describe_model
    from rmexp.serve.server import Server
    from rmexp.serve.service import RewardService

    if queue_texts < max_texts:
        raise UserError(
            f"task.queue_texts={queue_texts} has no room for a request of "
            f"task.max_texts={max_texts}: raise it, or lower the other."
        )
    token = token or os.environ.get("RMEXP_TOKEN") or None
    members = [checkpoint] if isinstance(checkpoint, str) else checkpoint
    home = Path(members[0]).expanduser()
    with listen(host, port, token) as address:
        tokenizer = model.load_tokenizer()
        template.install(tokenizer)
        scorer = open_scorer(
            model,
            tokenizer,
            trainer.device(),
            trainer.resolved_precision(),
            model.layout,
            max_length or trained_max_length,
            batch_tokens,
            load_calibration(home),
        )
        if not isinstance(checkpoint, str):
            how = Aggregation(aggregate or "mean", lcb_lambda)
            scorer = with_others(scorer, members, how, trainer.accelerator, trust)
            scorer.check_same_tokens()
            reporter.say(scorer.cost)
        else:
            scorer.aggregate_members(aggregate, lcb_lambda)
        fingerprint = template_fingerprint(tokenizer)
        run.write_json("environment.json", describe_environment(template=fingerprint))
        scales = tuple(name for name, reason in scorer.scales().items() if reason is None)
        label = scorer.model.config.id2label[0]
        info = describe_model(home, model.name, scorer.max_length, scales, label)
        if isinstance(scorer, EnsembleScorer):  # what is known of the first is not known of all
            info = dataclasses.replace(info, name=scorer.name, accuracy=None, warnings=())
        limits = RequestLimits(
            int(max_body_mib * 2**20), max_characters, max_texts, scorer.max_length
        )
        service = RewardService(scorer, info, limits, queue_texts, batch_wait_ms / 1000)
        host, port = address.getsockname()[:2]
        url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        run.update(address=url, model=info.name, layout=scorer.layout, precision=scorer.precision)
        Server(
            create_app(service, token),
            lambda: reporter.say(f"serving {info.name} at {url}", f"ask: {_curl(url, token)}"),
        ).run([address])
    requests = service.telemetry.requests
    run.update(requests=requests)
    reporter.say(f"stopped after {requests} requests")
    return {}


def check_packages() -> None:
    """Check that what the extra `serve` installs is there.

    Raises:
        UserError: it is not.
    """
    if missing := [name for name in SERVER_PACKAGES if importlib.util.find_spec(name) is None]:
        raise UserError(f"task=serve needs {', '.join(missing)}: pip install 'rmexp[serve]'.")


def _curl(url: str, token: str | None) -> str:
    body = json.dumps({"prompt": "What is 2 + 2?", "responses": ["Four.", "Five."]})
    headers = ["-H", "Content-Type: application/json"]
    words = shlex.join(["curl", f"{url}/reward", *headers, "-d", body])
    return words + (' -H "Authorization: Bearer $RMEXP_TOKEN"' if token else "")
