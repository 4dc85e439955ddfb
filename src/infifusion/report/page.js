"use strict";
const told = document.getElementById("told");
document.addEventListener("click", (event) => {
  const token = event.target.closest(".tokens i");
  told.hidden = !token;
  if (token) told.textContent = JSON.stringify(token.textContent) + ": " + token.title;
});

const holder = document.getElementById("item-data");
if (holder) {
  const data = JSON.parse(holder.textContent);
  const list = document.getElementById("items-shown");
  const pick = document.getElementById("pair"), kind = document.getElementById("outcome");
  const element = (name, text, parent) => {
    const made = parent.appendChild(document.createElement(name));
    made.textContent = text;
    return made;
  };
  const option = (select, value, text) => {
    const chosen = element("option", text, select);
    chosen.value = value;
  };
  const words = {
    gained: (p) => `gained: ${p.b} right, ${p.a} wrong`,
    lost: (p) => `lost: ${p.a} right, ${p.b} wrong`,
    both: () => "both right",
    neither: () => "neither right",
  };
  data.pairs.forEach((p, number) => option(pick, number, `${p.task}: ${p.b} against ${p.a}`));
  const showKinds = () => {
    const pair = data.pairs[pick.value], before = kind.value;
    kind.replaceChildren();
    for (const key of Object.keys(words))
      option(kind, key, `${words[key](pair)} (${pair.shown[key].length} of ${pair.counts[key]} here)`);
    if (before) kind.value = before;
  };
  const showItems = () => {
    const pair = data.pairs[pick.value];
    list.replaceChildren();
    const names = pair.shown[kind.value];
    if (!names.length) element("p", "No such item.", list).className = "missing";
    for (const name of names) {
      const item = data.items[pair.task][name];
      const box = element("article", "", list);
      box.className = "item";
      element("h4", `${pair.task} ${name}`, box);
      element("pre", item.prompt ?? "", box);
      if (item.gold !== null) element("p", `Reference: ${item.gold}`, box);
      const both = element("div", "", box);
      both.className = "answers";
      for (const model of [pair.a, pair.b]) {
        const answer = item.answers[model], column = element("div", "", both);
        const said = [answer.correct ? "right" : "wrong"];
        if (answer.truncated) said.push("cut off at the length limit");
        if (answer.invalid) said.push("no answer found");
        const head = element("h4", `${model}: ${said.join(", ")}`, column);
        head.className = answer.correct ? "better" : "worse";
        element("pre", answer.output ?? "", column);
        if (answer.extracted !== null) element("p", `Taken as the answer: ${answer.extracted}`, column).className = "soft";
      }
    }
  };
  pick.addEventListener("change", () => { showKinds(); showItems(); });
  kind.addEventListener("change", showItems);
  showKinds();
  showItems();
}
