"""task=sample: responses of a policy to the prompts of any data."""

import sys
import time
from typing import Annotated

import torch
from annotated_types import Gt, Le

from rmexp.core.console import Reporter
from rmexp.core.errors import UserError
from rmexp.core.process_memory import peak_memory_gib
from rmexp.data.comparison_data import ComparisonData
from rmexp.data.reader import read_comparisons
from rmexp.data.row_report import RowReport, check_bad_rows
from rmexp.data.row_source import MixedSource
from rmexp.data.tokenize_spec import source_fingerprint
from rmexp.inference.resumable_file import check_out
from rmexp.policy.policy_model import context_length, end_tokens, policy_model
from rmexp.policy.sample_file import ResponseSampler, SampleFile
from rmexp.policy.sampling import Decoding, Sampled
from rmexp.templates.template import template_fingerprint
from rmexp.tracking.environment import describe_environment
from rmexp.tracking.run_directory import RunDirectory
from rmexp.training.setup import seed_everything
from rmexp.training.trainer import TrainerSettings

Positive = Annotated[int, Gt(0)]


def sample(
    policy: str | None,
    out: str,
    data: ComparisonData,
    trainer: TrainerSettings,
    run: RunDirectory,
    reporter: Reporter,
    seed: int,
    cache: str,
    k: Positive,
    temperature: Annotated[float, Gt(0)],
    top_p: Annotated[float, Gt(0), Le(1)],
    max_new_tokens: Positive,
    batch_size: Positive,
) -> dict[str, float]:
    """Write `k` responses to each distinct prompt of the data: `id prompt response tokens logprob`.

    After a kill, the same command resumes after the last batch, and the file is the same. A prompt
    that leaves no room for a response is left out and counted.

    Args:
        policy: a directory or hub id; None: SmolLM2.
        out: a new .parquet or .jsonl file.
        data: rows of any format; their responses and labels are not read.
        seed: of the random numbers, together with the prompt and the response's number.

    Raises:
        UserError: rows, policy or `out` cannot be used, or no prompt can be answered.
    """
    file, source = check_out(out), data.source
    if isinstance(source, MixedSource) or source.templates:
        raise UserError(
            "task=sample reads one source and renders it with the policy's own chat template: "
            "leave out data=mix, data.template and data.system."
        )
    source.check()
    seed_everything(seed)
    opened = policy_model(policy, cache)
    tokenizer = opened.load_tokenizer()
    recipe, precision, device = source.spec, trainer.resolved_precision(), trainer.device()
    fingerprint = template_fingerprint(tokenizer)
    decoding = Decoding(temperature, top_p, max_new_tokens)
    weights = source_fingerprint(opened.path)
    settings = [*vars(decoding).values(), k, batch_size, seed]
    key = [weights, recipe.dialogues_key, fingerprint, precision, device, *map(str, settings)]
    samples = SampleFile(file, key)
    run.write_json("environment.json", describe_environment(template=fingerprint, seed=seed))
    dtype = torch.float32 if precision == "32-true" else torch.bfloat16
    model = opened.load_language_model(tokenizer, dtype).to(device)
    sampler = ResponseSampler(
        model,
        tokenizer,
        end_tokens(model, tokenizer),
        min(recipe.max_length, context_length(model) or sys.maxsize),
        decoding,
        k,
        batch_size,
        seed,
    )
    reporter.say(
        f"policy: {opened.name}, {precision}, {k} responses a prompt",
        *([f"resuming after {samples.responses} responses"] if samples.responses else []),
    )
    reading, started, before = RowReport(), time.monotonic(), samples.responses
    tokens = cut = 0

    def stop_at_bad_rows() -> None:
        if recipe.on_bad_row == "raise" and (found := samples.rows_with(reading)).bad:
            check_bad_rows(found, recipe.on_bad_row, recipe.max_bad_share)

    def progress(found: list[Sampled]) -> None:
        nonlocal tokens, cut
        tokens += sum(len(one.tokens) for one in found)
        cut += sum(one.cut for one in found)
        rate = tokens / (time.monotonic() - started)
        reporter.count(f"responses sampled ({rate:.0f} tokens/s)", samples.responses)

    rows = read_comparisons(recipe.paths, recipe.parse, reading, recipe.limit, recipe.reading)
    sampler.stream(rows, samples, stop_at_bad_rows, progress)
    found = samples.rows_with(reading)
    check_bad_rows(found, recipe.on_bad_row, recipe.max_bad_share)
    if not samples.responses:
        raise UserError(f"No prompt can be answered: {'; '.join(found.losses())}.")
    samples.finish()
    seconds, new = time.monotonic() - started, samples.responses - before
    facts = {
        "prompts": samples.responses // k,
        "responses": samples.responses,
        "tokens_per_second": round(tokens / seconds, 1),
        "tokens_per_response": round(tokens / max(1, new), 1),
        "cut_share": round(cut / max(1, new), 4),
    }
    reporter.say(
        *found.lines(),
        f"{samples.responses} responses to {facts['prompts']} prompts in {seconds:.1f} s "
        f"({facts['tokens_per_second']} tokens/s): {file}",
        f"{facts['tokens_per_response']} tokens a response; {facts['cut_share']:.1%} were cut at "
        f"task.max_new_tokens={max_new_tokens}",
    )
    run.update(
        policy=opened.path,
        out=str(file),
        rows=found.to_dict(),
        precision=precision,
        peak_memory_gib=round(peak_memory_gib(), 2),
        **facts,
    )
    return {}
