// What every page does: forms that post JSON, times in the reader's own zone,
// and, on a session's page, the live transcript.
import { interest, mint, post, trouble } from './api.js';
import { localTimes } from './times.js';
import { startSession } from './session.js';
import { startSettings } from './settings.js';

function newSessionForm(form) {
  const text = form.elements.prompt;
  const draft = 'draft:new';
  if (!text.value) text.value = localStorage.getItem(draft) || '';
  text.addEventListener('input', () => localStorage.setItem(draft, text.value));
  text.addEventListener('keydown', (e) => {
    if (e.key === 'Enter' && (e.ctrlKey || e.metaKey)) {
      e.preventDefault();
      form.requestSubmit();
    }
  });
  const writes = interest(text, () => ({ text: text.value, repository: form.elements.repository.value }));
  text.addEventListener('input', writes);
  form.elements.repository.addEventListener('change', writes);
  // One key per text: sending the same text again after an error that hid the
  // answer begins one session, not two.
  let key = mint();
  text.addEventListener('input', () => { key = mint(); });
  form.addEventListener('submit', async (e) => {
    e.preventDefault();
    const button = form.querySelector('[type=submit]');
    button.disabled = true;
    trouble(form, '');
    try {
      const made = await post('/api/sessions', { prompt: text.value, repository: form.elements.repository.value }, key);
      localStorage.removeItem(draft);
      location.assign(made.url);
    } catch (err) {
      trouble(form, err.message);
      button.disabled = false;
    }
  });
}

localTimes(document);
const form = document.getElementById('new');
if (form) newSessionForm(form);
if (document.body.dataset.session) startSession(document.body.dataset);
const settings = document.getElementById('settings');
if (settings) startSettings(settings);
