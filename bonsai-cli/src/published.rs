//! Published files whose digests are known.

/// A file of a release, or one that all of them hold.
pub struct PublishedFile {
    pub bytes: u64,
    pub sha256: &'static str,
    pub what: &'static str,
}

const FILES: [PublishedFile; 4] = [
    PublishedFile {
        bytes: 1_425_271_472,
        sha256: "b21737bdf02690b7d662907781c4dc8b8bf22a2c98b823b1ca3336f48371a84f",
        what: "the transformer of Bonsai Image 4B, ternary, MLX pack",
    },
    PublishedFile {
        bytes: 7_751_109_712,
        sha256: "fa5fd18239aadc41d3bec64810479fd3aed5182946f70e2d894f747cf4e35964",
        what: "the transformer of Bonsai Image 4B, ternary in 16-bit numbers",
    },
    PublishedFile {
        bytes: 2_263_022_529,
        sha256: "e240c0bdc0ebb0681bf0da0f98d9719fd6ebe269a3633f81542c13e81345651d",
        what: "the text encoder of Bonsai Image 4B, 4 bits, MLX pack",
    },
    PublishedFile {
        bytes: 168_120_878,
        sha256: "ca70d2202afe6415bdbcb8793ba8cd99fd159cfe6192381504d6c4d3036e0f04",
        what: "the VAE of FLUX.2 in 16-bit numbers",
    },
];

/// The published file of this size: sizes are told apart by the byte, though a file of another training may share one.
pub fn of_size(bytes: u64) -> Option<&'static PublishedFile> {
    FILES.iter().find(|file| file.bytes == bytes)
}
