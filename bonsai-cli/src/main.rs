//! bonsai: one command from a prompt to a picture, on a plain CPU.

mod synth;

fn main() {}
