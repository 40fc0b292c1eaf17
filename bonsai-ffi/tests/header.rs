//! `include/bonsai.h` is what cbindgen makes of this crate. To write it anew: `BONSAI_WRITE_HEADER=1 cargo test -p
//! bonsai-ffi --test header`.

use std::path::Path;

#[test]
fn the_committed_header_is_the_generated_one() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = cbindgen::Config::from_file(root.join("cbindgen.toml")).unwrap();
    let mut made = Vec::new();
    cbindgen::Builder::new().with_crate(root).with_config(config).generate().unwrap().write(&mut made);
    let path = root.join("../include/bonsai.h");
    if std::env::var_os("BONSAI_WRITE_HEADER").is_some() {
        std::fs::write(&path, &made).unwrap();
    }
    let committed = std::fs::read(&path).unwrap();
    assert!(committed == made, "include/bonsai.h: expected what BONSAI_WRITE_HEADER=1 writes");
}
