//! The register-only loops of x86-64.
//!
//! Each is a block of assembly, so that no compiler shortens it: many independent accumulators, operands that stay in
//! registers, all zero (no denormals, no NaN). `\r` runs over the accumulators.
#![expect(unsafe_code, reason = "loops that name instructions and registers")]

use std::arch::asm;

use super::{Ceiling, CeilingLoop};
use crate::Isa;
use crate::x86_64::amx;

/// What a loop needs, in the order of [`Isa`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Sse2,
    Avx2,
    AvxVnni,
    Avx512,
    Avx512Vnni,
    Avx512Bf16,
    Amx,
}

/// One loop: `$n` rounds of `$body` after `$setup`.
macro_rules! register_loop {
    (@asm $n:ident, $setup:literal, $body:literal, $end:literal, $($more:tt)*) => {
        asm!(
            $setup, ".p2align 6", "2:", $body, "dec {n}", "jnz 2b", $end,
            n = inout(reg) $n => _,
            out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _, out("xmm5") _,
            out("xmm6") _, out("xmm7") _, out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
            out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
            $($more)*
            options(nostack, nomem),
        )
    };
    (xmm $name:ident, $body:literal) => {
        fn $name(n: u64) {
            let n = n.max(1);
            // SAFETY: registers that are declared, and the baseline's instructions.
            unsafe {
                register_loop!(@asm n,
                    ".irp r,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\npxor xmm\\r,xmm\\r\n.endr", $body, "", )
            }
        }
    };
    (ymm $name:ident, $body:literal) => {
        fn $name(n: u64) {
            #[target_feature(enable = "avx2")]
            fn rounds(n: u64) {
                // SAFETY: registers that are declared; `loops` lists it where its instructions are.
                unsafe {
                    register_loop!(@asm n,
                        ".irp r,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\nvpxor ymm\\r,ymm\\r,ymm\\r\n.endr", $body,
                        "vzeroupper", )
                }
            }
            // SAFETY: `loops` lists it for instruction sets with AVX2 only.
            unsafe { rounds(n.max(1)) }
        }
    };
    (zmm $name:ident, $body:literal) => {
        fn $name(n: u64) {
            #[target_feature(enable = "avx512f")]
            fn rounds(n: u64) {
                // SAFETY: registers that are declared; `loops` lists it where its instructions are.
                unsafe {
                    register_loop!(@asm n,
                        ".irp r,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
                         vpxord zmm\\r,zmm\\r,zmm\\r
                         .endr", $body, "vzeroupper",
                        out("xmm16") _, out("xmm17") _, out("xmm18") _, out("xmm19") _, out("xmm20") _,
                        out("xmm21") _, out("xmm22") _, out("xmm23") _, out("xmm24") _, out("xmm25") _,
                        out("xmm26") _, out("xmm27") _, out("xmm28") _, out("xmm29") _, out("xmm30") _,
                        out("xmm31") _,)
                }
            }
            // SAFETY: `loops` lists it for instruction sets with AVX-512 only.
            unsafe { rounds(n.max(1)) }
        }
    };
}

// 12 sums of 4
register_loop!(xmm f32_xmm, ".irp r,4,5,6,7,8,9,10,11,12,13,14,15
    movaps xmm2,xmm0
    mulps xmm2,xmm1
    addps xmm\\r,xmm2
    .endr");
// 12 sums of 8 products of 16 bits
register_loop!(xmm int8_xmm, ".irp r,4,5,6,7,8,9,10,11,12,13,14,15
    movdqa xmm2,xmm0
    pmaddwd xmm2,xmm1
    paddd xmm\\r,xmm2
    .endr");
// 8 times 128 bits, counted by adding neighbours, then pairs, then nibbles
register_loop!(xmm popcount_xmm, ".irp r,8,9,10,11,12,13,14,15
    movdqa xmm2,xmm0
    pxor xmm2,xmm1
    movdqa xmm3,xmm2
    psrlw xmm3,1
    pand xmm3,xmm4
    psubb xmm2,xmm3
    movdqa xmm3,xmm2
    psrlw xmm3,2
    pand xmm3,xmm5
    pand xmm2,xmm5
    paddb xmm2,xmm3
    movdqa xmm3,xmm2
    psrlw xmm3,4
    paddb xmm2,xmm3
    pand xmm2,xmm6
    paddb xmm\\r,xmm2
    .endr");

// 14 sums of 8
register_loop!(ymm f32_ymm, ".irp r,2,3,4,5,6,7,8,9,10,11,12,13,14,15
    vfmadd231ps ymm\\r,ymm0,ymm1
    .endr");
// 12 sums of 32; sums of a group of 128 fit 16 bits when weights are small
register_loop!(ymm int8_ymm, ".irp r,4,5,6,7,8,9,10,11,12,13,14,15
    vpmaddubsw ymm2,ymm0,ymm1
    vpaddw ymm\\r,ymm\\r,ymm2
    .endr");
// 14 sums of 32
register_loop!(ymm int8_vnni_ymm, ".irp r,2,3,4,5,6,7,8,9,10,11,12,13,14,15
    {{vex}} vpdpbusd ymm\\r,ymm0,ymm1
    .endr");
// 10 times 256 bits, counted by tables of nibbles
register_loop!(ymm popcount_ymm, ".irp r,6,7,8,9,10,11,12,13,14,15
    vpxor ymm2,ymm0,ymm1
    vpand ymm3,ymm2,ymm4
    vpsrlw ymm2,ymm2,4
    vpand ymm2,ymm2,ymm4
    vpshufb ymm3,ymm5,ymm3
    vpshufb ymm2,ymm5,ymm2
    vpaddb ymm\\r,ymm\\r,ymm3
    vpaddb ymm\\r,ymm\\r,ymm2
    .endr");
// 4 times 32 rows of 4 weights: low and high bytes of 16 entries, three sums each
register_loop!(ymm lookup_ymm, ".macro bonsai_lookup low,high,carry
    vpshufb ymm1,ymm0,ymm15
    vpshufb ymm2,ymm0,ymm15
    vpaddb ymm\\high,ymm\\high,ymm2
    vpaddw ymm\\low,ymm\\low,ymm1
    vpsrlw ymm1,ymm1,8
    vpaddw ymm\\carry,ymm\\carry,ymm1
    .endm
    bonsai_lookup 3,4,5
    bonsai_lookup 6,7,8
    bonsai_lookup 9,10,11
    bonsai_lookup 12,13,14
    .purgem bonsai_lookup");

// 24 sums of 16
register_loop!(zmm f32_zmm, ".irp r,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
    vfmadd231ps zmm\\r,zmm0,zmm1
    .endr");
// 16 sums of 64
register_loop!(zmm int8_zmm, ".irp r,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23
    vpmaddubsw zmm2,zmm0,zmm1
    vpaddw zmm\\r,zmm\\r,zmm2
    .endr");
// 24 sums of 64
register_loop!(zmm int8_vnni_zmm, ".irp r,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
    vpdpbusd zmm\\r,zmm0,zmm1
    .endr");
// 24 sums of 32
register_loop!(zmm bf16_zmm, ".irp r,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
    vdpbf16ps zmm\\r,zmm0,zmm1
    .endr");
// 14 sums of 16
register_loop!(ymm bf16_ymm, ".irp r,2,3,4,5,6,7,8,9,10,11,12,13,14,15
    vdpbf16ps ymm\\r,ymm0,ymm1
    .endr");
// 8 times 512 bits, added with carry before a table of nibbles counts the eights
register_loop!(zmm popcount_zmm, ".macro bonsai_add carry,sum,a,b
    vmovdqa64 zmm\\carry,zmm\\sum
    vpternlogq zmm\\carry,zmm\\a,zmm\\b,0xe8
    vpternlogq zmm\\sum,zmm\\a,zmm\\b,0x96
    .endm
    .macro bonsai_pair carry
    vpxorq zmm2,zmm0,zmm1
    vpxorq zmm3,zmm0,zmm1
    bonsai_add \\carry,8,2,3
    .endm
    bonsai_pair 4
    bonsai_pair 5
    bonsai_add 6,9,4,5
    bonsai_pair 4
    bonsai_pair 5
    bonsai_add 7,9,4,5
    bonsai_add 10,11,6,7
    vpandq zmm12,zmm10,zmm16
    vpsrlw zmm10,zmm10,4
    vpandq zmm10,zmm10,zmm16
    vpshufb zmm12,zmm17,zmm12
    vpshufb zmm10,zmm17,zmm10
    vpaddb zmm18,zmm18,zmm12
    vpaddb zmm19,zmm19,zmm10
    .purgem bonsai_pair
    .purgem bonsai_add");
// 16 times 512 bits
register_loop!(zmm popcount_vpopcnt_zmm, ".irp r,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23
    vpxorq zmm2,zmm0,zmm1
    vpopcntq zmm2,zmm2
    vpaddq zmm\\r,zmm\\r,zmm2
    .endr");
// 16 times 32 rows of 5 weights
register_loop!(zmm lookup_zmm, ".irp r,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23
    vpermw zmm2,zmm0,zmm1
    vpaddsw zmm\\r,zmm\\r,zmm2
    .endr");
// the same in pairs, where 512 bits are two halves
register_loop!(zmm lookup_pairs_zmm, ".macro bonsai_lookup a,b
    vpermw zmm2,zmm0,zmm1
    vpermw zmm3,zmm0,zmm1
    vpaddw zmm\\a,zmm\\a,zmm2
    vpaddw zmm\\b,zmm\\b,zmm3
    .endm
    bonsai_lookup 8,9
    bonsai_lookup 10,11
    bonsai_lookup 12,13
    bonsai_lookup 14,15
    bonsai_lookup 16,17
    bonsai_lookup 18,19
    bonsai_lookup 20,21
    bonsai_lookup 22,23
    .purgem bonsai_lookup");
// the same by bytes, where a look-up of words is two operations
register_loop!(zmm lookup_vpermb_zmm, ".irp r,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23
    vpermb zmm2,zmm0,zmm1
    vpaddsw zmm\\r,zmm\\r,zmm2
    .endr");
// 7 times 64 rows of 6 weights: low and high bytes of 64 entries, three sums each
register_loop!(zmm lookup_vbmi_zmm, ".macro bonsai_lookup low,high,carry
    vpermb zmm3,zmm0,zmm1
    vpermb zmm4,zmm0,zmm2
    vpaddb zmm\\high,zmm\\high,zmm4
    vpaddw zmm\\low,zmm\\low,zmm3
    vpsrlw zmm3,zmm3,8
    vpaddw zmm\\carry,zmm\\carry,zmm3
    .endm
    bonsai_lookup 8,9,10
    bonsai_lookup 11,12,13
    bonsai_lookup 14,15,16
    bonsai_lookup 17,18,19
    bonsai_lookup 20,21,22
    bonsai_lookup 23,24,25
    bonsai_lookup 26,27,28
    .purgem bonsai_lookup");

/// Four tiles of 16 x 16 sums, all zero.
macro_rules! tile_loop {
    ($name:ident, $instruction:literal) => {
        fn $name(n: u64) {
            // SAFETY: `loops` lists it where tiles may be used; they are configured before and given back after.
            unsafe {
                amx::configure();
                amx::zero_sums();
                asm!(
                    "tilezero tmm4",
                    "tilezero tmm5",
                    ".p2align 6",
                    "2:",
                    concat!($instruction, " tmm0, tmm4, tmm5"),
                    concat!($instruction, " tmm1, tmm4, tmm5"),
                    concat!($instruction, " tmm2, tmm4, tmm5"),
                    concat!($instruction, " tmm3, tmm4, tmm5"),
                    "dec {n}",
                    "jnz 2b",
                    n = inout(reg) n.max(1) => _,
                    options(nostack, nomem),
                );
                amx::release();
            }
        }
    };
}
tile_loop!(bf16_tiles, "tdpbf16ps");
tile_loop!(int8_tiles, "tdpbssd");

/// All loops; which of a ceiling is the fastest differs between makers.
const LOOPS: [(Level, CeilingLoop); 21] = {
    use Ceiling::*;
    use Level::*;
    [
        (Avx512, CeilingLoop::new(F32Fma, "vfmadd231ps zmm", 24 * 16, f32_zmm)),
        (Avx2, CeilingLoop::new(F32Fma, "vfmadd231ps ymm", 14 * 8, f32_ymm)),
        (Sse2, CeilingLoop::new(F32Fma, "mulps + addps", 12 * 4, f32_xmm)),
        (Amx, CeilingLoop::new(Bf16Dot, "tdpbf16ps", 4 * 16 * 16 * 32, bf16_tiles)),
        (Avx512Bf16, CeilingLoop::new(Bf16Dot, "vdpbf16ps zmm", 24 * 32, bf16_zmm)),
        (Avx512Bf16, CeilingLoop::new(Bf16Dot, "vdpbf16ps ymm", 14 * 16, bf16_ymm)),
        (Amx, CeilingLoop::new(Int8Dot, "tdpbssd", 4 * 16 * 16 * 64, int8_tiles)),
        (Avx512Vnni, CeilingLoop::new(Int8Dot, "vpdpbusd zmm", 24 * 64, int8_vnni_zmm)),
        (Avx512, CeilingLoop::new(Int8Dot, "vpmaddubsw + vpaddw zmm", 16 * 64, int8_zmm)),
        (AvxVnni, CeilingLoop::new(Int8Dot, "vpdpbusd ymm", 14 * 32, int8_vnni_ymm)),
        (Avx2, CeilingLoop::new(Int8Dot, "vpmaddubsw + vpaddw ymm", 12 * 32, int8_ymm)),
        (Sse2, CeilingLoop::new(Int8Dot, "pmaddwd + paddd", 12 * 8, int8_xmm)),
        (
            Avx512Vnni,
            CeilingLoop::new(Popcount, "vpxorq + vpopcntq + vpaddq zmm", 16 * 512, popcount_vpopcnt_zmm),
        ),
        (Avx512, CeilingLoop::new(Popcount, "carry-save vpternlogq + vpshufb zmm", 8 * 512, popcount_zmm)),
        (Avx2, CeilingLoop::new(Popcount, "vpxor + 2 vpshufb ymm", 10 * 256, popcount_ymm)),
        (Sse2, CeilingLoop::new(Popcount, "pxor + bit counts in bytes", 8 * 128, popcount_xmm)),
        (Avx512Vnni, CeilingLoop::new(Lookup, "2 vpermb + adds zmm", 7 * 64 * 6, lookup_vbmi_zmm)),
        (Avx512Vnni, CeilingLoop::new(Lookup, "vpermb + vpaddsw zmm", 16 * 32 * 5, lookup_vpermb_zmm)),
        (Avx512, CeilingLoop::new(Lookup, "vpermw + vpaddsw zmm", 16 * 32 * 5, lookup_zmm)),
        (Avx512, CeilingLoop::new(Lookup, "2 vpermw + 2 vpaddw zmm", 16 * 32 * 5, lookup_pairs_zmm)),
        (Avx2, CeilingLoop::new(Lookup, "2 vpshufb + adds ymm", 4 * 32 * 4, lookup_ymm)),
    ]
};

fn level(isa: Isa) -> Level {
    match isa {
        Isa::Portable(_) => Level::Sse2,
        Isa::Avx2(_) => Level::Avx2,
        Isa::AvxVnni(_) => Level::AvxVnni,
        Isa::Avx512(_) => Level::Avx512,
        Isa::Avx512Vnni(_) => Level::Avx512Vnni,
        Isa::Avx512Bf16(_) => Level::Avx512Bf16,
        Isa::Amx(_) => Level::Amx,
    }
}

pub(super) fn loops(isa: Isa) -> impl Iterator<Item = CeilingLoop> {
    let level = level(isa);
    // AVX-512 does not bring AVX-VNNI along
    let allows = move |needed| needed == level || (needed < level && needed != Level::AvxVnni);
    LOOPS.into_iter().filter(move |&(needed, _)| allows(needed)).map(|(_, listed)| listed)
}
