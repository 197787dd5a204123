// Actions are sent one after the other, each with a unique id, so that an action that is sent again counts once.

export function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

// The session did not process the action: the page must be admitted again first.
export const SHUT_OUT = 403;

const RETRIES = [300, 1000, 3000];

// `post` sends one action. It throws Refused if the session rejects it, and anything else if there was no answer.
export function createSaving(post) {
  let last = Promise.resolve();
  let waiting = 0; // what is not saved yet
  const listeners = [];

  function tell(problem) {
    for (const listener of listeners) listener(waiting, problem);
  }

  async function persist(path, body) {
    for (let attempt = 0; ; attempt += 1) {
      try {
        return await post(path, body);
      } catch (error) {
        const isLost = !(error instanceof Refused) || error.status === 503 || error.status === SHUT_OUT;
        if (!isLost) throw error;
        tell(error.message);
        await new Promise((resolve) => setTimeout(resolve, RETRIES[Math.min(attempt, RETRIES.length - 1)]));
      }
    }
  }

  // Send an action after the previous ones. The promise is rejected if the session refuses it.
  function act(path, body) {
    const named = { event: newId(), ...body };
    waiting += 1;
    tell(null);
    const done = last.then(() => persist(path, named));
    last = done.then(
      () => {
        waiting -= 1;
        tell(null);
      },
      (error) => {
        waiting -= 1;
        tell(error.message);
      },
    );
    return done;
  }

  return {
    act,
    onSaving: (listener) => listeners.push(listener),
    settled: () => last, // after all actions being sent
    unsaved: () => waiting,
  };
}
