//! Encrypted connections: rustls with the cryptography of graviola, which is Rust and assembly and needs no C compiler.

use std::sync::Arc;

use ureq::tls::{RootCerts, TlsConfig};

/// Instructions that the cryptography is written for and this CPU lacks.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub fn missing() -> Option<String> {
    #[cfg(target_arch = "x86_64")]
    macro_rules! has {
        ($feature:tt) => {
            std::arch::is_x86_feature_detected!($feature)
        };
    }
    #[cfg(target_arch = "aarch64")]
    macro_rules! has {
        ($feature:tt) => {
            std::arch::is_aarch64_feature_detected!($feature)
        };
    }
    #[cfg(target_arch = "x86_64")]
    let needed = [
        ("aes", has!("aes")),
        ("pclmulqdq", has!("pclmulqdq")),
        ("ssse3", has!("ssse3")),
        ("bmi1", has!("bmi1")),
        ("bmi2", has!("bmi2")),
        ("adx", has!("adx")),
        ("avx", has!("avx")),
        ("avx2", has!("avx2")),
    ];
    #[cfg(target_arch = "aarch64")]
    let needed =
        [("aes", has!("aes")), ("pmull", has!("pmull")), ("sha2", has!("sha2")), ("neon", has!("neon"))];
    let missing: Vec<_> = needed.iter().filter(|(_, has)| !has).map(|(name, _)| *name).collect();
    (!missing.is_empty()).then(|| missing.join(", "))
}

/// The cryptography is written for other processors.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub fn missing() -> Option<String> {
    Some("x86-64 or aarch64".to_owned())
}

/// Trust in the authorities that Mozilla trusts.
pub fn config() -> TlsConfig {
    let config = TlsConfig::builder().root_certs(RootCerts::WebPki);
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    let config = config.unversioned_rustls_crypto_provider(Arc::new(rustls_graviola::default_provider()));
    config.build()
}
