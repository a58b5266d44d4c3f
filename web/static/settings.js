// The page of what is set for a repository or for all. Each form is sent by itself
// and shows what came of it; what is being written elsewhere on the page stays.
import { put, remove, trouble } from './api.js';
import { fragment } from './transcript.js';

const number = (text) => (text.trim() === '' ? 0 : Number(text));
const words = (text) => text.split(/[\s,]+/).filter(Boolean);

// headers reads "Name: value" lines. A line without a colon is sent as a name, so
// that the server says what is wrong with it.
function headers(text) {
  const all = {};
  for (const line of text.split('\n').map((l) => l.trim()).filter(Boolean)) {
    const at = line.indexOf(':');
    if (at < 0) all[line] = '';
    else all[line.slice(0, at).trim()] = line.slice(at + 1).trim();
  }
  return all;
}

const readers = {
  ports: (f) => ({ port: number(f.port.value), label: f.label.value.trim() }),
  tools: (f) => {
    const target = f.target.value.trim();
    const at = /^[a-z]+:\/\//i.test(target) ? { url: target } : { command: target };
    return { name: f.name.value.trim(), ...at, headers: headers(f.headers.value) };
  },
  skills: (f) => ({ name: f.name.value.trim(), description: f.description.value.trim(), text: f.text.value }),
};

// rows reads the repeated parts of the form.
function rows(form, kind) {
  return [...form.querySelectorAll(`[data-rows=${kind}] > .row-set`)].map((row) => {
    const fields = {};
    for (const input of row.querySelectorAll('[data-field]')) fields[input.dataset.field] = input;
    return readers[kind](fields);
  });
}

function settings(form) {
  const f = form.elements;
  return {
    cpu: number(f.cpu.value), mem_mib: number(f.mem_mib.value), regions: words(f.regions.value),
    lifetime_minutes: number(f.lifetime_minutes.value), prompt_minutes: number(f.prompt_minutes.value),
    setup_minutes: number(f.setup_minutes.value), instructions: f.instructions.value.trim(), project: f.project.value,
    images: f.images.value, spares: f.spares.value,
    ports: rows(form, 'ports'), tools: rows(form, 'tools'), skills: rows(form, 'skills'),
  };
}

export function startSettings(box) {
  const { api } = box.dataset;
  const set = document.getElementById('set-variable');
  const change = document.getElementById('change-settings');

  // show puts the answer's parts in the place of the old ones.
  function show(answer) {
    box.dataset.version = answer.version;
    for (const part of ['variables', 'changes']) document.getElementById(part).replaceWith(fragment(answer[part]));
  }

  // send disables the form while f runs and says what came of it.
  async function send(form, done, f) {
    const button = form.querySelector('[type=submit]');
    const status = form.querySelector('[role=status]');
    button.disabled = true;
    trouble(form, '');
    status.textContent = '';
    try {
      show(await f());
      status.textContent = done;
      return true;
    } catch (err) {
      trouble(form, err.message);
      form.querySelector('.form-error').scrollIntoView({ block: 'nearest' });
      return false;
    } finally {
      button.disabled = false;
    }
  }

  const variable = (name) => `${api}/variables/${encodeURIComponent(name)}`;

  set?.addEventListener('submit', async (e) => {
    e.preventDefault();
    const name = set.elements.variable.value.trim();
    const body = { value: set.elements.value.value, kind: set.elements.kind.value };
    if (await send(set, `${name} is set. It holds for what starts from now on.`, () => put(variable(name), body))) {
      set.elements.variable.value = '';
      set.elements.value.value = '';
      set.elements.variable.focus();
    }
  });

  change.addEventListener('submit', (e) => {
    e.preventDefault();
    send(change, 'Saved.', () => put(api, { version: Number(box.dataset.version), settings: settings(change) }));
  });
  change.addEventListener('input', () => {
    const status = change.querySelector('.save [role=status]');
    if (status) status.textContent = 'Not saved yet.';
  });

  box.addEventListener('click', async (e) => {
    const at = (name) => e.target.closest(`[data-${name}]`);
    if (at('add')) {
      const kind = at('add').dataset.add;
      const row = document.getElementById(`${kind}-row`).content.cloneNode(true);
      const list = change.querySelector(`[data-next=${kind}]`);
      list.append(row);
      list.lastElementChild.querySelector('input').focus();
    } else if (at('drop')) {
      at('drop').closest('.row-set').remove();
      change.dispatchEvent(new Event('input'));
    } else if (at('replace')) {
      set.elements.variable.value = at('replace').dataset.replace;
      set.elements.kind.value = at('replace').dataset.kind;
      set.elements.value.focus();
    } else if (at('remove')) {
      const { remove: name } = at('remove').dataset;
      if (confirm(`Remove ${name}? Sandboxes that run keep it until they end.`)) {
        await send(set, `${name} is removed.`, () => remove(variable(name)));
      }
    }
  });
}
