//! Instructions that kernels ask for, and whether this CPU has them.

#[cfg(target_arch = "x86_64")]
use bonsai_core::Isa;

/// Name and presence of each.
#[cfg(target_arch = "x86_64")]
pub fn all() -> Vec<(&'static str, bool)> {
    macro_rules! each {
        ($($feature:tt),+ $(,)?) => { vec![$(($feature, std::arch::is_x86_feature_detected!($feature))),+] };
    }
    let mut found = each![
        "ssse3",
        "popcnt",
        "avx",
        "f16c",
        "fma",
        "avx2",
        "avxvnni",
        "avx512f",
        "avx512bw",
        "avx512dq",
        "avx512vl",
        "avx512vnni",
        "avx512vbmi",
        "avx512vbmi2",
        "avx512bitalg",
        "avx512vpopcntdq",
        "avx512bf16",
        "avx512fp16",
    ];
    // as far as the operating system lets this process use it
    found.push(("amx", Isa::named("amx").is_ok()));
    found
}

/// Name and presence of each.
#[cfg(target_arch = "aarch64")]
pub fn all() -> Vec<(&'static str, bool)> {
    macro_rules! each {
        ($($feature:tt),+ $(,)?) => { vec![$(($feature, std::arch::is_aarch64_feature_detected!($feature))),+] };
    }
    each!["neon", "fp16", "dotprod", "i8mm", "bf16", "sve", "sve2"]
}

/// No kernel asks for any.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub fn all() -> Vec<(&'static str, bool)> {
    Vec::new()
}
