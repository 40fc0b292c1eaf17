//! The programs of `tests/c` and `examples/c`, compiled as strictly as compilers can and run on the small golden model.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use bonsai_core::{Pipeline, Request};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

fn root(path: &str) -> PathBuf {
    Path::new(ROOT).join(path)
}

/// A folder to compile in, with the shared library under the names that a program looks for.
struct Site {
    folder: tempfile::TempDir,
}

impl Site {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        // cargo puts the library beside this test
        let test = env::current_exe().unwrap();
        let library = test.parent().unwrap().join("libbonsai.so");
        for name in ["libbonsai.so", "libbonsai.so.0"] {
            #[cfg(unix)]
            std::os::unix::fs::symlink(&library, folder.path().join(name)).unwrap();
        }
        assert!(library.is_file(), "{}: expected the library of this build", library.display());
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Compiles one file to a program.
    fn compile(&self, compiler: &str, flags: &[&str], source: &str) -> PathBuf {
        let program = self.path(Path::new(source).file_stem().unwrap().to_str().unwrap());
        let mut command = Command::new(compiler);
        command.args(flags).args(["-g", "-Wall", "-Wextra", "-Werror", "-pedantic", "-I"]);
        command.arg(root("include")).arg(root(source)).arg("-o").arg(&program);
        if !flags.contains(&"-c") {
            command.arg("-L").arg(self.folder.path()).args(["-lbonsai", "-lpthread"]);
            command.arg(format!("-Wl,-rpath,{}", self.folder.path().display()));
        }
        succeeds(command.output().unwrap());
        program
    }

    fn run(&self, program: &Path, args: &[&OsStr]) -> Output {
        let mut command = Command::new(program);
        command.args(args).env_remove("BONSAI_ISA").current_dir(self.folder.path());
        succeeds(command.output().unwrap())
    }
}

fn succeeds(output: Output) -> Output {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}\n{}{}", output.status, text(&output.stdout), text(&output.stderr));
    output
}

/// A compiler of this machine by name, unless there is none, which is said.
fn there(compiler: &str) -> bool {
    let there = cfg!(target_os = "linux") && Command::new(compiler).arg("--version").output().is_ok();
    if !there {
        println!("SKIPPED: no {compiler} on this machine");
    }
    there
}

fn model() -> PathBuf {
    root("golden/model")
}

/// The picture of `small_request` in `check.h`, as Rust saves it.
fn wanted_png(site: &Site) -> PathBuf {
    let path = site.path("wanted.png");
    let request = Request::new("a tree").seed(7).size(64, 48).steps(2);
    Pipeline::open(model()).unwrap().generate(&request).unwrap().save_png(&path).unwrap();
    path
}

/// Names of all files of a folder, relative to it.
fn files(folder: &Path, prefix: &str, found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = format!("{prefix}{}", path.file_name().unwrap().to_str().unwrap());
        if path.is_dir() { files(&path, &format!("{name}/"), found) } else { found.push(name) }
    }
}

#[test]
fn the_header_suits_every_compiler() {
    let site = Site::new();
    for (compiler, flags) in [
        ("gcc", &["-std=c99"][..]),
        ("gcc", &["-std=c11"]),
        ("clang", &["-std=c99"]),
        ("g++", &["-x", "c++", "-std=c++17"]),
        ("clang++", &["-x", "c++", "-std=c++17"]),
    ] {
        if there(compiler) {
            site.compile(compiler, &[flags, &["-c"]].concat(), "bonsai-ffi/tests/c/layout.c");
        }
    }
}

#[test]
fn no_function_is_left_out_of_the_tables() {
    let header = fs::read_to_string(root("include/bonsai.h")).unwrap();
    let tables = ["table.c", "panics.c"].map(|name| {
        let path = root("bonsai-ffi/tests/c").join(name);
        (name, fs::read_to_string(path).unwrap())
    });
    let name = |declared: &str| {
        let start = declared.split_once('(')?.0;
        start.rsplit(|c: char| c.is_whitespace() || c == '*').next().map(str::to_owned)
    };
    let functions = header.split("BONSAI_API").filter_map(name).filter(|name| name.starts_with("bonsai_"));
    let mut count = 0;
    for function in functions.filter(|name| !name.starts_with("bonsai_test_")) {
        count += 1;
        for (name, table) in &tables {
            let ends = |(at, _)| {
                !table[at + function.len()..].starts_with(|c: char| c.is_alphanumeric() || c == '_')
            };
            assert!(table.match_indices(&function).any(ends), "{name} does not call {function}");
        }
    }
    assert!(count > 25, "{count} functions found in the header");
}

#[test]
fn every_wrong_argument_is_a_status() {
    for compiler in ["gcc", "clang"].into_iter().filter(|c| there(c)) {
        let site = Site::new();
        let program = site.compile(compiler, &["-std=c99"], "bonsai-ffi/tests/c/table.c");
        let output = site.run(&program, &[model().as_os_str()]);
        // a quiet guest: only the program itself has spoken
        assert_eq!(String::from_utf8_lossy(&output.stdout), "table: every answer as expected\n");
        assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn pipelines_in_one_process_do_not_hear_each_other() {
    if there("gcc") {
        let site = Site::new();
        let program = site.compile("gcc", &["-std=c99"], "bonsai-ffi/tests/c/together.c");
        site.run(&program, &[model().as_os_str()]);
    }
}

#[test]
fn a_decoder_paints_previews_and_opening_can_be_cancelled() {
    if there("gcc") {
        let site = Site::new();
        let program = site.compile("gcc", &["-std=c99"], "bonsai-ffi/tests/c/preview.c");
        let taef2 = root("bonsai-core/tests/fixtures/taef2_decoder.pth");
        site.run(&program, &[model().as_os_str(), taef2.as_os_str()]);
    }
}

#[test]
fn a_host_brings_files_memory_and_threads() {
    if there("gcc") {
        let site = Site::new();
        let program = site.compile("gcc", &["-std=c99"], "bonsai-ffi/tests/c/host.c");
        let wanted = wanted_png(&site);
        let mut names = Vec::new();
        files(&model(), "", &mut names);
        let model = model();
        let mut args = vec![model.as_os_str(), wanted.as_os_str()];
        args.extend(names.iter().map(OsStr::new));
        site.run(&program, &args);
    }
}

#[test]
fn cancels_at_random_times_leave_nothing_behind() {
    if there("gcc") {
        let site = Site::new();
        let program = site.compile("gcc", &["-std=c99"], "bonsai-ffi/tests/c/stress.c");
        site.run(&program, &[model().as_os_str(), OsStr::new("200"), OsStr::new("20")]);
        // a measurement, which need only run
        let program = site.compile("gcc", &["-std=c99"], "bonsai-ffi/tests/c/latency.c");
        let taef2 = root("bonsai-core/tests/fixtures/taef2_decoder.pth");
        let [side, rounds] = ["128", "1"].map(OsStr::new);
        site.run(&program, &[model().as_os_str(), side, side, rounds, taef2.as_os_str()]);
    }
}

#[test]
fn the_examples_paint_what_rust_paints() {
    if there("gcc") {
        let site = Site::new();
        let program = site.compile("gcc", &["-std=c99"], "examples/c/text_to_image.c");
        let (found, wanted) = (site.path("found.png"), site.path("rust.png"));
        let args =
            [model().into_os_string(), "a \u{1f333}".into(), found.clone().into_os_string(), "3".into()];
        site.run(&program, &args.each_ref().map(|a| a.as_os_str()));
        let request = Request::new("a \u{1f333}").seed(3);
        Pipeline::open(model()).unwrap().generate(&request).unwrap().save_png(&wanted).unwrap();
        assert!(fs::read(found).unwrap() == fs::read(wanted).unwrap());
        let program = site.compile("gcc", &["-std=c99"], "examples/c/cancel_from_thread.c");
        site.run(&program, &[model().as_os_str()]);
    }
}

/// With `--features inject-panics`, which no release has.
#[cfg(feature = "inject-panics")]
#[test]
fn panics_become_statuses() {
    if there("gcc") {
        let site = Site::new();
        let program = site.compile("gcc", &["-std=c99"], "bonsai-ffi/tests/c/panics.c");
        let output = site.run(&program, &[model().as_os_str()]);
        assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}
