//! Large buffers that go from one operation to the next: memory that is fresh from the system costs as much as a part of what is
//! done in it.

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};

use bytemuck::Pod;

use crate::aligned::{AlignedBuf, Allocator, Element};
use crate::error::Result;

/// Smaller ones stay with the allocator.
const LEAST_BYTES: usize = 1 << 20;

/// Buffers that nobody works in. There are never more of them than operations had at one time.
#[derive(Debug, Default)]
pub(crate) struct SpareBuffers(Mutex<Vec<AlignedBuf<u64>>>);

impl SpareBuffers {
    /// A buffer of `len` numbers, which are whatever somebody left there.
    ///
    /// # Errors
    /// As [`AlignedBuf::zeroed`].
    pub(crate) fn take<T: Element + Pod>(
        self: &Arc<Self>,
        allocator: &Arc<dyn Allocator>,
        len: usize,
    ) -> Result<SpareBuf<T>> {
        let bytes = len.saturating_mul(size_of::<T>());
        let words = bytes.div_ceil(size_of::<u64>());
        let spare = if bytes < LEAST_BYTES { None } else { self.smallest(words) };
        let buf = match spare {
            Some(buf) => buf,
            None => AlignedBuf::zeroed(allocator, words)?,
        };
        Ok(SpareBuf { buf: Some(buf), len, home: Arc::clone(self), element: PhantomData })
    }

    /// The smallest one that holds so many words. If there is none, all of them go before another comes.
    fn smallest(&self, words: usize) -> Option<AlignedBuf<u64>> {
        let mut spare = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fitting = spare.iter().enumerate().filter(|(_, buf)| buf.len() >= words);
        match fitting.min_by_key(|(_, buf)| buf.len()).map(|(index, _)| index) {
            Some(index) => Some(spare.swap_remove(index)),
            None => {
                spare.clear();
                None
            }
        }
    }

    fn put(&self, buf: AlignedBuf<u64>) {
        if buf.len() * size_of::<u64>() >= LEAST_BYTES {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(buf);
        }
    }

    /// Gives all of them back.
    pub(crate) fn release(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// A buffer that returns to where it came from.
pub(crate) struct SpareBuf<T> {
    /// There until it is dropped.
    buf: Option<AlignedBuf<u64>>,
    len: usize,
    home: Arc<SpareBuffers>,
    element: PhantomData<T>,
}

impl<T> Drop for SpareBuf<T> {
    fn drop(&mut self) {
        if let Some(buf) = self.buf.take() {
            self.home.put(buf);
        }
    }
}

impl<T: Element + Pod> Deref for SpareBuf<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        let words: &[u64] = self.buf.as_deref().unwrap_or(&[]);
        &bytemuck::cast_slice(words)[..self.len]
    }
}

impl<T: Element + Pod> DerefMut for SpareBuf<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        let words: &mut [u64] = self.buf.as_deref_mut().unwrap_or(&mut []);
        &mut bytemuck::cast_slice_mut(words)[..self.len]
    }
}

impl<T> fmt::Debug for SpareBuf<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SpareBuf({} x {})", self.len, std::any::type_name::<T>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SystemAllocator;

    #[test]
    fn buffers_come_back_and_go() {
        let allocator: Arc<dyn Allocator> = Arc::new(SystemAllocator);
        let spare = Arc::new(SpareBuffers::default());
        let kept = || spare.0.lock().unwrap().len();
        let take = |len| spare.take::<u8>(&allocator, len).unwrap();
        let mut buf = spare.take::<f32>(&allocator, LEAST_BYTES).unwrap();
        assert_eq!((buf.len(), buf[7]), (LEAST_BYTES, 0.0));
        buf[7] = 1.0;
        drop(buf);
        // the same one serves other numbers, and smaller buffers
        let again = take(LEAST_BYTES);
        assert_eq!((again.len(), again[4 * 7 + 3], kept()), (LEAST_BYTES, 0x3f, 0));
        drop((take(LEAST_BYTES), again));
        assert_eq!(kept(), 2);
        drop(take(LEAST_BYTES - 8));
        assert_eq!((kept(), spare.smallest(0).map(|buf| 8 * buf.len())), (2, Some(LEAST_BYTES)));
        // one that does not fit takes the place of all
        drop(take(4 * LEAST_BYTES + 1));
        assert_eq!(kept(), 1);
        spare.release();
        assert_eq!(kept(), 0);
        assert!(spare.take::<u8>(&allocator, usize::MAX).is_err());
    }
}
