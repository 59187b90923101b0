// The step under the pointer: hovering one chart over steps moves a hairline in all of them.
let at = $state.raw<{ step: number; by: unknown } | null>(null);

export const cursor = {
  /** The step that somebody else than `me` points at. */
  seenBy(me: unknown): number | null {
    return at && at.by !== me ? at.step : null;
  },
  /** `null` lets go of what this one pointed at. */
  point(by: unknown, step: number | null): void {
    if (step !== null) at = { step, by };
    else if (at?.by === by) at = null;
  },
};
