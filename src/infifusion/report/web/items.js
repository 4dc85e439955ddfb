// Single items: which the fused model gained and lost, searched and read side by side.
const itemData = jsonOf("item-data");
if (itemData) {
  const STEP = 10, words = { gained: "gained", lost: "lost", both: "both right", neither: "neither right" };
  const meaning = {
    gained: (p) => `${p.b} right, ${p.a} wrong`,
    lost: (p) => `${p.a} right, ${p.b} wrong`,
    both: () => "both right",
    neither: () => "both wrong",
  };
  const pick = byId("item-pair"), search = byId("item-search"), choices = byId("item-outcomes");
  const list = byId("items-shown"), more = byId("item-more"), count = byId("item-count");
  let outcome = "gained", limit = STEP;

  const textOf = (name, item, pair) =>
    [name, item.prompt, item.gold, ...[pair.a, pair.b].map((model) => item.answers[model].output)].join("\n").toLowerCase();
  const marked = (parent, text, wanted) => {
    const whole = visible(text), low = whole.toLowerCase();
    parent.textContent = "";
    let from = 0;
    for (let at = wanted ? low.indexOf(wanted) : -1; at >= 0; at = low.indexOf(wanted, from)) {
      parent.append(whole.slice(from, at));
      add(parent, "mark", whole.slice(at, at + wanted.length));
      from = at + wanted.length;
    }
    parent.append(whole.slice(from));
  };
  const showAnswer = (parent, model, answer, wanted) => {
    const column = add(parent, "div"), said = [answer.correct ? "right" : "wrong"];
    if (answer.truncated) said.push("cut off at the length limit");
    if (answer.invalid) said.push("no answer found");
    add(column, "h4", `${answer.correct ? "✓" : "✗"} ${model}: ${said.join(", ")}`, answer.correct ? "better" : "worse");
    marked(add(column, "pre"), answer.output ?? "", wanted);
    if (answer.extracted !== null) add(column, "p", `Taken as the answer: ${answer.extracted}`, "soft");
  };
  const showItem = (pair, name, wanted) => {
    const item = itemData.items[pair.task][name], box = add(list, "article", "", "item");
    add(box, "h3", `${pair.task} ${name}`);
    marked(add(box, "pre"), item.prompt ?? "", wanted);
    if (item.gold !== null) add(box, "p", `Reference: ${item.gold}`);
    const both = add(box, "div", "", "answers");
    for (const model of [pair.a, pair.b]) showAnswer(both, model, item.answers[model], wanted);
  };
  const show = () => {
    const pair = itemData.pairs[pick.value], wanted = search.value.trim().toLowerCase();
    const names = pair.shown[outcome].filter((name) => !wanted || textOf(name, itemData.items[pair.task][name], pair).includes(wanted));
    for (const button of choices.children) {
      button.textContent = `${words[button.value]} ${pair.counts[button.value]}`;
      button.setAttribute("aria-pressed", button.value === outcome);
    }
    const left = pair.counts[outcome] - pair.shown[outcome].length;
    count.textContent = visible(`${names.length} ${words[outcome]} (${meaning[outcome](pair)})${wanted ? " with these words" : ""}, ${Math.min(limit, names.length)} shown${left ? `; ${left} more in evaluate/MODEL/${pair.task}.jsonl` : ""}.`);
    list.replaceChildren();
    for (const name of names.slice(0, limit)) showItem(pair, name, wanted);
    more.hidden = names.length <= limit;
  };
  const anew = () => { limit = STEP; show(); };
  itemData.pairs.forEach((p, place) => addOption(pick, place, `${p.task}: ${p.b} against ${p.a}`));
  for (const key of Object.keys(words)) {
    const button = add(choices, "button");
    button.type = "button";
    button.value = key;
    button.addEventListener("click", () => { outcome = key; anew(); });
  }
  pick.addEventListener("change", anew);
  search.addEventListener("input", anew);
  more.addEventListener("click", () => { limit += STEP; show(); });
  byId("item-controls").hidden = choices.hidden = false;
  show();
}
