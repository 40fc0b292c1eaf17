//! How busy tasks keep threads, for the tests of those who cut work into tasks.

/// Numbers of threads that CPUs have.
pub(crate) const USUAL_THREADS: [usize; 17] = [2, 3, 4, 6, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64];

/// The share of their time that threads work which take the next of these pieces of work whenever they are free.
pub(crate) fn busy(pieces: impl IntoIterator<Item = usize>, threads: usize) -> f64 {
    let (mut until, mut all) = (vec![0; threads], 0);
    for piece in pieces {
        let first_free = until.iter_mut().min().expect("threads");
        *first_free += piece;
        all += piece;
    }
    all as f64 / (threads * until.into_iter().max().expect("threads")) as f64
}

/// The parts of a length, of `most` each but for the last.
pub(crate) fn lengths(len: usize, most: usize) -> impl Iterator<Item = usize> + Clone {
    (0..len).step_by(most).map(move |first| most.min(len - first))
}
