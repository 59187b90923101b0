// What the page has asked for and does not have yet.
let count = 0;

export const busy = {
  get now(): boolean {
    return count > 0;
  },
};

/** Counts while it is under way. */
export async function counted<T>(asked: Promise<T>): Promise<T> {
  count++;
  try {
    return await asked;
  } finally {
    count--;
  }
}
