//! Token ids to prompt embeddings.

mod config;
mod qwen3;

pub use config::Qwen3Config;
pub use qwen3::Qwen3;
