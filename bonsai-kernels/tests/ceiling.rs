//! The ceilings are there, run what they say, and kernels are measured next to them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bonsai_kernels::ceiling::{
    Ceiling, Interleaved, KernelRate, LinearKind, LinearShape, linear_shapes, measure, test_activations,
    test_weights,
};
use bonsai_kernels::gemm::ActivationPrecision;
use bonsai_kernels::{CancelToken, Cpu, Isa, KernelError, RayonThreads};

#[test]
fn every_loop_of_this_cpu_runs() {
    for isa in Isa::available() {
        for threads in [1, 3] {
            let cpu = Cpu::new(isa).with_threads(Arc::new(RayonThreads::new(threads).unwrap()));
            for ceiling in Ceiling::ALL.into_iter().filter_map(|c| c.on(isa)) {
                // whole rounds in whole pieces: at most a round each is missing
                let (macs, took) = ceiling.run(&cpu, 10_000_000).unwrap();
                assert!((9_000_000..=10_000_000).contains(&macs), "{ceiling:?}: {macs}");
                assert!(took > Duration::ZERO, "{ceiling:?}");
                // less than a round is one round in each piece
                assert!(ceiling.run(&cpu, 0).unwrap().0 > 0, "{ceiling:?}");
            }
        }
    }
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[test]
fn instruction_sets_have_ceilings() {
    for isa in Isa::available() {
        for &precision in ActivationPrecision::ALL {
            let ceiling = Ceiling::of(precision, isa).unwrap();
            assert!(!ceiling.instructions().is_empty(), "{ceiling:?}");
        }
        assert_eq!(Ceiling::of(ActivationPrecision::F32, isa).unwrap().ceiling(), Ceiling::F32Fma);
        assert!(Ceiling::Int8Dot.on(isa).is_some() && Ceiling::Popcount.on(isa).is_some());
    }
    let names: BTreeSet<_> = Ceiling::ALL.iter().map(|ceiling| ceiling.name()).collect();
    assert_eq!(Vec::from_iter(names), ["bf16-dot", "f32-fma", "int8-dot", "lookup", "popcount"]);
}

#[test]
fn a_set_token_stops_a_ceiling() {
    let token = CancelToken::new();
    token.cancel();
    let cpu = Cpu::new(Isa::best()).with_cancel(token);
    for ceiling in Ceiling::ALL.into_iter().filter_map(|c| c.on(Isa::best())) {
        assert_eq!(ceiling.run(&cpu, 1).unwrap_err(), KernelError::Cancelled);
    }
}

#[test]
fn work_runs_as_often_as_asked() {
    let cpu = Cpu::new(Isa::best());
    let mut runner = Interleaved::new(&cpu, Ceiling::F32Fma.on(cpu.isa())).unwrap();
    assert_eq!((runner.gmacs(1), runner.ceiling()), (None, None));
    let naps = [20, 5, 30].map(Duration::from_millis);
    let took = naps.map(|nap| {
        runner
            .run(|| {
                std::thread::sleep(nap);
                Ok(())
            })
            .unwrap()
    });
    assert!(took.iter().zip(naps).all(|(took, nap)| *took >= nap), "{took:?}");
    // the best time counts: no shorter than the shortest nap, so no rate above this
    let best = took.iter().min().unwrap().as_secs_f64();
    let gmacs = runner.gmacs(1_000_000_000).unwrap();
    assert!((gmacs * best - 1.0).abs() < 1e-6, "{gmacs} GMAC/s, {best} s");
    assert_eq!(runner.run(|| Err(KernelError::Cancelled)), Err(KernelError::Cancelled));
    assert_eq!(runner.gmacs(1_000_000_000), Some(gmacs));
}

#[test]
fn kernels_are_measured_at_small_shapes() {
    for isa in Isa::available() {
        let cpu = Cpu::new(isa);
        for kind in LinearKind::ALL {
            for &precision in ActivationPrecision::ALL {
                let shape = LinearShape { m: 3, k: 256, n: 64 };
                let rate: KernelRate =
                    measure(&cpu, kind, precision, shape, 2, Duration::from_secs(60)).unwrap();
                assert_eq!((rate.shape, rate.threads, rate.isa), (shape, 1, isa.name()));
                assert!(rate.gmacs > 0.0 && rate.gmacs.is_finite(), "{rate:?}");
                if let (Some(ratio), Some((_, ceiling))) = (rate.ratio(), rate.ceiling) {
                    assert!((ratio * ceiling - rate.gmacs).abs() <= 1e-9 * rate.gmacs, "{rate:?}");
                }
            }
        }
    }
}

#[test]
fn long_runs_get_fewer_rows() {
    let cpu = Cpu::new(Isa::best());
    let shape = LinearShape { m: 480, k: 128, n: 128 };
    let rate = measure(&cpu, LinearKind::Binary, ActivationPrecision::F32, shape, 1, Duration::ZERO).unwrap();
    assert_eq!(rate.shape, LinearShape { m: 48, ..shape });
}

#[test]
fn shapes_and_values_are_the_models() {
    for kind in LinearKind::ALL {
        let shapes = linear_shapes(kind);
        assert!(shapes.iter().all(|s| s.k % 128 == 0 && s.n % 128 == 0), "{shapes:?}");
        let weights = test_weights(kind, 4, 256);
        assert_eq!((weights.rows(), weights.cols(), weights.kind()), (4, 256, kind.name()));
        assert!(weights.is_finite());
        let row = weights.row(1);
        let distinct: BTreeSet<_> = row[..64].iter().map(|v| v.to_bits()).collect();
        let levels = match kind {
            LinearKind::Binary => 2..=2,
            LinearKind::Ternary => 3..=3,
            LinearKind::Int4 => 12..=16,
        };
        assert!(levels.contains(&distinct.len()), "{kind:?}: {row:?}");
    }
    let x = test_activations(7, 128);
    assert!(x.iter().all(|v| (-1.0..1.0).contains(v)));
    assert!(x.mean().unwrap().abs() < 0.1);
}
