// What a hand can do on any chart of a run.
export interface Hands {
  pin: (step: number) => void;
  zoom: (from: number, to: number) => void;
  back: () => void;
}
