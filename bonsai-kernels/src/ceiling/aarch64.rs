//! The register-only loops of aarch64.
//!
//! Each is a block of assembly, so that no compiler shortens it: many independent accumulators, operands that stay in
//! registers, all zero (no denormals, no NaN). `\r` runs over the accumulators.
#![expect(unsafe_code, reason = "loops that name instructions and registers")]

use std::arch::asm;

use super::{Ceiling, CeilingLoop};
use crate::Isa;

/// `$n` rounds of `$body`.
macro_rules! register_loop {
    ($name:ident, $feature:literal, $body:literal) => {
        fn $name(n: u64) {
            #[target_feature(enable = $feature)]
            fn rounds(n: u64) {
                // SAFETY: registers that are declared; `loops` lists it where its instructions are.
                unsafe {
                    asm!(
                        ".irp r,0,1,2,3,4,5,6,7,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
                         movi v\\r\\().16b, #0
                         .endr
                         .p2align 6",
                        "2:", $body, "subs {n}, {n}, #1", "b.ne 2b",
                        n = inout(reg) n => _,
                        out("v0") _, out("v1") _, out("v2") _, out("v3") _, out("v4") _, out("v5") _,
                        out("v6") _, out("v7") _, out("v16") _, out("v17") _, out("v18") _, out("v19") _,
                        out("v20") _, out("v21") _, out("v22") _, out("v23") _, out("v24") _, out("v25") _,
                        out("v26") _, out("v27") _, out("v28") _, out("v29") _, out("v30") _, out("v31") _,
                        options(nostack, nomem),
                    )
                }
            }
            // SAFETY: `loops` lists it for CPUs with this feature only.
            unsafe {
                rounds(n.max(1));
            }
        }
    };
}

// 16 sums of 4
register_loop!(
    f32_neon,
    "neon",
    ".irp r,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
    fmla v\\r\\().4s, v0.4s, v1.4s
    .endr"
);
// 16 sums of 16: pairs of products of 8 bits into 16, then into 32
register_loop!(
    int8_neon,
    "neon",
    ".irp r,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
    smull v2.8h, v0.8b, v1.8b
    smlal2 v2.8h, v0.16b, v1.16b
    sadalp v\\r\\().4s, v2.8h
    .endr"
);
// 16 sums of 16
register_loop!(
    int8_dotprod,
    "dotprod",
    ".irp r,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
    sdot v\\r\\().4s, v0.16b, v1.16b
    .endr"
);
// 16 sums of 2x8 times 8x2
register_loop!(
    int8_i8mm,
    "i8mm",
    ".irp r,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
    smmla v\\r\\().4s, v0.16b, v1.16b
    .endr"
);
// 16 sums of 2x4 times 4x2
register_loop!(
    bf16_bfmmla,
    "bf16",
    ".irp r,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
    bfmmla v\\r\\().4s, v0.8h, v1.8h
    .endr"
);
// 16 times 128 bits
register_loop!(
    popcount_neon,
    "neon",
    ".irp r,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
    eor v2.16b, v0.16b, v1.16b
    cnt v2.16b, v2.16b
    add v\\r\\().16b, v\\r\\().16b, v2.16b
    .endr"
);
// 5 times 16 rows of 4 weights: low and high bytes of 16 entries, three sums each
register_loop!(
    lookup_neon,
    "neon",
    ".macro bonsai_lookup even,odd,high
    tbl v3.16b, {{v0.16b}}, v2.16b
    tbl v4.16b, {{v1.16b}}, v2.16b
    uaddw v\\even\\().8h, v\\even\\().8h, v3.8b
    uaddw2 v\\odd\\().8h, v\\odd\\().8h, v3.16b
    add v\\high\\().16b, v\\high\\().16b, v4.16b
    .endm
    bonsai_lookup 16,17,18
    bonsai_lookup 19,20,21
    bonsai_lookup 22,23,24
    bonsai_lookup 25,26,27
    bonsai_lookup 28,29,30
    .purgem bonsai_lookup"
);

pub(super) fn loops(isa: Isa) -> impl Iterator<Item = CeilingLoop> {
    let i8mm = matches!(isa, Isa::I8mm(_));
    let dotprod = i8mm || matches!(isa, Isa::DotProd(_));
    // no level of its own
    let bf16 = i8mm && std::arch::is_aarch64_feature_detected!("bf16");
    [
        (true, CeilingLoop::new(Ceiling::F32Fma, "fmla", 16 * 4, f32_neon)),
        (bf16, CeilingLoop::new(Ceiling::Bf16Dot, "bfmmla", 16 * 16, bf16_bfmmla)),
        (i8mm, CeilingLoop::new(Ceiling::Int8Dot, "smmla", 16 * 32, int8_i8mm)),
        (dotprod, CeilingLoop::new(Ceiling::Int8Dot, "sdot", 16 * 16, int8_dotprod)),
        (true, CeilingLoop::new(Ceiling::Int8Dot, "smull + smlal2 + sadalp", 16 * 16, int8_neon)),
        (true, CeilingLoop::new(Ceiling::Popcount, "eor + cnt + add", 16 * 128, popcount_neon)),
        (true, CeilingLoop::new(Ceiling::Lookup, "2 tbl + adds", 5 * 16 * 4, lookup_neon)),
    ]
    .into_iter()
    .filter_map(|(has, listed)| has.then_some(listed))
}
