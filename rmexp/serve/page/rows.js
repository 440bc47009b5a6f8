// A row of JSON, as data sets have them -> the prompt's messages and the texts of its answers.

const NO_ANSWER =
  "There is no answer in it: give messages, response, responses, or chosen and rejected.";

function textOf(message) {
  const content = message?.content;
  if (typeof content === "string") return content;
  if (Array.isArray(content) && content.every((part) => typeof part?.text === "string"))
    return content.map((part) => part.text).join("");
  const shown = JSON.stringify(message).slice(0, 80);
  throw new Error(`A message needs a role, and a text as content: ${shown}`);
}

// An answer's text, and the messages before it if it is a whole dialogue.
function splitAnswer(answer) {
  if (typeof answer === "string") return { before: [], text: answer };
  if (!Array.isArray(answer) || answer.length === 0) throw new Error(NO_ANSWER);
  if (answer.at(-1)?.role !== "assistant")
    throw new Error("The last message is the answer: it has to be the assistant's.");
  return { before: answer.slice(0, -1), text: textOf(answer.at(-1)) };
}

// Accepts a list of messages, or an object with a prompt and one of the columns of answers.
export function readRow(row) {
  const fields = Array.isArray(row) ? { messages: row } : (row ?? {});
  const { messages, response, responses, chosen, rejected } = fields;
  const answers = responses ?? [response ?? chosen ?? messages, rejected].filter((a) => a != null);
  if (!Array.isArray(answers) || answers.length === 0) throw new Error(NO_ANSWER);
  const split = answers.map(splitAnswer);
  let prompt = fields.prompt ?? split[0].before;
  if (typeof prompt === "string") prompt = [{ role: "user", content: prompt }];
  if (!Array.isArray(prompt) || prompt.length === 0)
    throw new Error("There is no prompt before the answer.");
  const same = JSON.stringify(prompt);
  if (split.some(({ before }) => before.length > 0 && JSON.stringify(before) !== same))
    throw new Error("The answers have different messages before them: paste one of them.");
  return {
    prompt: prompt.map((message) => ({ role: String(message?.role), content: textOf(message) })),
    responses: split.map(({ text }) => text),
  };
}
