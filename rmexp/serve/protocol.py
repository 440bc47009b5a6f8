"""Bodies of requests, with the field names of the consumers; unknown fields are ignored."""

from typing import Annotated, Any, Literal

from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
    WrapValidator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from rmexp.evaluation.aggregate import Aggregate
from rmexp.inference.scorer import Scale


def expected(words: str) -> WrapValidator:
    """One error in words for all forms of a field, in place of one for each."""

    def validate(value: Any, handler: Any) -> Any:
        try:
            return handler(value)
        except ValidationError:
            raise PydanticCustomError("form", f"should be {words}") from None

    return WrapValidator(validate)


ChatMessage = dict[str, Any]
NotEmpty = Field(min_length=1)
MessageList = Annotated[list[ChatMessage], NotEmpty]
TextOrMessages = Annotated[
    str | MessageList, expected("a text or a list of messages (role, content), not empty")
]
TextList = Annotated[list[str], NotEmpty]
Texts = Annotated[str | TextList, expected("a text or a list of texts, not empty")]
Ids = Annotated[list[int], NotEmpty]
Input = Annotated[
    str | TextList | Ids | Annotated[list[Ids], NotEmpty],
    expected("a text, a list of texts, a list of token ids, or a list of these, not empty"),
]
Ignored = Annotated[Any, WithJsonSchema({})]


class Body(BaseModel):
    """Base of all bodies: exact types, without conversions."""

    model_config = ConfigDict(strict=True, extra="ignore")


class NothingCut(Body):
    """Options of vLLM that would change a text or the template: they are refused."""

    truncate_prompt_tokens: None = Field(None, description="texts are never cut")
    chat_template: None = Field(None, description="the model's own template is used")


class GetReward(Body):
    """OpenRLHF's `remote_rm_url`: rendered texts."""

    query: Texts
    prompts: Ignored = None
    labels: Ignored = None


class Classify(NothingCut):
    """vLLM's and verl's: rendered `input`, or `messages`; the raw reward by default."""

    model: Ignored = None
    input: Input | None = None
    messages: MessageList | None = None
    use_activation: bool | None = Field(None, description="true: sigmoid of the reward")
    activation: bool | None = Field(None, description="its name before vLLM 0.12")
    add_special_tokens: bool = Field(True, description="false: no BOS is added to `input`")
    add_generation_prompt: Literal[False] = False
    continue_final_message: bool = Field(False, description="no end of turn after the response")

    @model_validator(mode="after")
    def _one_input(self) -> "Classify":
        if (self.input is None) == (self.messages is None):
            raise ValueError("needs either input or messages")
        return self

    @property
    def activated(self) -> bool:
        """Whether the answer is the sigmoid of the reward."""
        return bool(self.activation if self.use_activation is None else self.use_activation)


class Embeddings(NothingCut):
    """verl's with SGLang: the embedding is the reward."""

    model: Ignored = None
    input: Input


class ScoreEvaluation(Body):
    """LLaMA-Factory's `reward_model_type: api`: rendered texts."""

    model: Ignored = None
    messages: Annotated[TextList, expected("a list of texts, not empty")]
    max_length: Annotated[int, Field(gt=0)] | None = Field(
        None, description="longer texts are refused"
    )


class ScorePairs(NothingCut):
    """vLLM's score: prompts and responses, one prompt for all or one each."""

    model: Ignored = None
    queries: Texts = Field(validation_alias=AliasChoices("queries", "text_1", "data_1"))
    documents: Texts = Field(
        validation_alias=AliasChoices("documents", "items", "text_2", "data_2")
    )
    use_activation: bool | None = Field(None, description="true: sigmoid of the reward")


class DocumentText(Body):
    """A document as an object."""

    text: str


class Rerank(NothingCut):
    """vLLM's and Jina's: a prompt and its responses, best first."""

    model: Ignored = None
    query: str
    documents: Annotated[
        list[str | DocumentText],
        NotEmpty,
        expected("a list of texts, not empty"),
    ]
    top_n: Annotated[int, Field(gt=0)] | None = None
    use_activation: bool | None = Field(None, description="true: sigmoid of the reward")

    @property
    def texts(self) -> list[str]:
        """The documents."""
        return [one if isinstance(one, str) else one.text for one in self.documents]


class RewardRequest(Body):
    """rmexp's own: a prompt with one response or several, or a whole dialogue.

    A prompt that is text and begins with a special token of the model is rendered already.
    """

    prompt: TextOrMessages | None = None
    response: TextOrMessages | None = None
    responses: (
        Annotated[
            list[str | MessageList],
            NotEmpty,
            expected("a list of responses (texts or lists of messages), not empty"),
        ]
        | None
    ) = None
    messages: Annotated[
        MessageList | None, expected("a list of messages (role, content), not empty")
    ] = None
    scale: Scale = "raw"
    uncertainty: bool = Field(False, description="also the reward of each member of an ensemble")
    aggregate: Aggregate | None = Field(
        None, description="how the members of an ensemble become one; the server's by default"
    )
    label: Ignored = None

    @model_validator(mode="after")
    def _one_form(self) -> "RewardRequest":
        given = [name for name in ("response", "responses") if getattr(self, name) is not None]
        if self.messages is not None and (self.prompt is not None or given):
            raise ValueError("has messages, so that it needs no prompt and no response")
        if self.messages is None and (self.prompt is None or len(given) != 1):
            raise ValueError("needs prompt with either response or responses, or messages")
        if self.uncertainty and (self.responses is None or self.scale != "raw"):
            raise ValueError("uncertainty needs prompt with responses, and scale raw")
        return self
