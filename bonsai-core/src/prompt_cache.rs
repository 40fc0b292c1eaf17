//! Prompts as the transformer reads them, kept for the next picture of the same words.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::nn::TokenBuffer;

/// Prompts that are kept when nobody says otherwise.
pub(crate) const DEFAULT_PROMPTS: usize = 4;
/// Bytes of all prompts that are kept, at most.
const MOST_BYTES: u64 = 32 << 20;

/// What a prompt's embeddings depend on, besides the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PromptKey {
    pub(crate) prompt: String,
    pub(crate) taps: Vec<usize>,
    pub(crate) max_sequence_length: usize,
}

/// A prompt that the text encoder has read.
#[derive(Debug, Clone)]
pub(crate) struct ReadPrompt {
    /// On the transformer's residual stream: `[max_sequence_length, hidden_size]`.
    pub(crate) projected: Arc<TokenBuffer>,
    /// Tokens before the padding.
    pub(crate) tokens: usize,
    /// Tokens of the prompt that did not fit.
    pub(crate) cut: usize,
}

impl ReadPrompt {
    fn bytes(&self) -> u64 {
        size_of_val(self.projected.as_slice()) as u64
    }
}

/// The prompts that were used last, the newest behind the others.
#[derive(Debug, Default)]
pub(crate) struct PromptCache(Mutex<VecDeque<(PromptKey, ReadPrompt)>>);

/// Prompts of `bytes` each that may be kept where `wanted` are asked for.
pub(crate) fn most_prompts(wanted: usize, bytes: u64) -> usize {
    let fitting = MOST_BYTES / bytes.max(1);
    wanted.min(usize::try_from(fitting).unwrap_or(usize::MAX))
}

impl PromptCache {
    fn entries(&self) -> MutexGuard<'_, VecDeque<(PromptKey, ReadPrompt)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The prompt of this key, if it is kept; it is then the newest.
    pub(crate) fn get(&self, key: &PromptKey) -> Option<ReadPrompt> {
        let mut entries = self.entries();
        let at = entries.iter().position(|(other, _)| other == key)?;
        let entry = entries.remove(at)?;
        let prompt = entry.1.clone();
        entries.push_back(entry);
        Some(prompt)
    }

    /// Keeps a prompt, and of the others those that [`PromptCache::make_room`] leaves.
    pub(crate) fn put(&self, key: PromptKey, prompt: ReadPrompt, most: usize) {
        let bytes = prompt.bytes();
        self.make_room(&key, bytes, most);
        if most_prompts(most, bytes) > 0 {
            let mut entries = self.entries();
            entries.retain(|(other, _)| *other != key);
            entries.push_back((key, prompt));
        }
    }

    /// Lets go what can't stay beside a prompt of `bytes` when `most` prompts may be kept.
    pub(crate) fn make_room(&self, key: &PromptKey, bytes: u64, most: usize) {
        let mut entries = self.entries();
        let kept = staying(&entries, key, bytes, most);
        let mut at = 0..;
        entries.retain(|(other, _)| {
            let stays = kept.contains(&at.next().unwrap_or(0));
            stays || (other == key && most > 0)
        });
    }

    /// Bytes of what stays then, this prompt not counted.
    pub(crate) fn bytes_beside(&self, key: &PromptKey, bytes: u64, most: usize) -> u64 {
        let entries = self.entries();
        staying(&entries, key, bytes, most).into_iter().map(|at| entries[at].1.bytes()).sum()
    }
}

/// Which others stay: the newest, as many as there is room for.
fn staying(
    entries: &VecDeque<(PromptKey, ReadPrompt)>,
    key: &PromptKey,
    bytes: u64,
    most: usize,
) -> Vec<usize> {
    let (mut kept, mut sum) = (Vec::new(), bytes);
    for (at, (other, prompt)) in entries.iter().enumerate().rev() {
        if other == key {
            continue;
        }
        sum = sum.saturating_add(prompt.bytes());
        if kept.len() + 1 >= most || sum > MOST_BYTES {
            break;
        }
        kept.push(at);
    }
    kept
}

#[cfg(test)]
mod tests {
    use bonsai_kernels::{Cpu, Isa};

    use super::*;

    fn key(prompt: &str) -> PromptKey {
        PromptKey { prompt: prompt.to_owned(), taps: vec![1], max_sequence_length: 8 }
    }

    fn prompt(tokens: usize) -> ReadPrompt {
        let projected = TokenBuffer::zeros(&Cpu::new(Isa::best()), tokens, 1 << 10).unwrap();
        ReadPrompt { projected: Arc::new(projected), tokens, cut: 0 }
    }

    #[test]
    fn the_prompts_used_last_are_kept() {
        let cache = PromptCache::default();
        for name in ["a", "b", "c"] {
            cache.put(key(name), prompt(1), 3);
        }
        assert!(cache.get(&key("a")).is_some());
        cache.put(key("d"), prompt(1), 3);
        let kept = |name| cache.get(&key(name)).is_some();
        assert!(kept("a") && kept("c") && kept("d") && !kept("b"));
        // the same words of another length are another prompt
        assert!(cache.get(&PromptKey { max_sequence_length: 9, ..key("a") }).is_none());
        assert!(cache.get(&PromptKey { taps: vec![2], ..key("a") }).is_none());
        assert_eq!(cache.bytes_beside(&key("d"), 1 << 12, 3), 2 << 12);
        assert_eq!(cache.bytes_beside(&key("e"), 1 << 12, 2), 1 << 12);
        cache.make_room(&key("d"), 1 << 12, 1);
        assert!(kept("d") && !kept("a") && !kept("c"));
        cache.make_room(&key("d"), 1 << 12, 0);
        assert!(!kept("d"));
    }

    #[test]
    fn bytes_are_bounded() {
        let cache = PromptCache::default();
        // 12 MiB each: two fit, three do not
        for name in ["a", "b", "c"] {
            cache.put(key(name), prompt(3 << 10), 100);
        }
        let kept = |name| cache.get(&key(name)).is_some();
        assert!(!kept("a") && kept("b") && kept("c"));
        cache.put(key("large"), prompt(9 << 10), 100);
        assert!(!kept("large") && !kept("b") && !kept("c"));
        assert_eq!(most_prompts(4, 12 << 20), 2);
        assert_eq!(most_prompts(1, 12 << 20), 1);
    }
}
