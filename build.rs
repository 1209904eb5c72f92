//! How the executable is linked on Linux: a process for each call pays for its linking each time.

/// Parts of the names of what one call of 1C, with files as storage, does not run: drivers of databases with what comes for them
/// alone, the command line, installations, FastCGI, many calls, files and other routes, and what words a panic.
const APART: [&str; 43] = [
    "aho_corasick",
    "arc_swap",
    "clap",
    "crossbeam_queue",
    "flate2",
    "futures_channel",
    "futures_util",
    "icu_normalizer",
    "icu_properties",
    "idna",
    "miniz_oxide",
    "mysql",
    "num_bigint",
    "parking_lot",
    "postgres",
    "regex",
    "rustls_pemfile",
    "sha2",
    "stringprep",
    "tokio",
    "unicode_normalization",
    "x509_cert",
    "zerovec",
    "3der",
    "3mio",
    "3url",
    "4sha1",
    "8b24proxy3cli",
    "6rustls6client5tls12",
    "8b24proxy4call4bulk",
    "8b24proxy4edge7fastcgi",
    "8b24proxy5serve10installing",
    "8b24proxy5store8database",
    "8b24proxy5store6moving",
    "8b24proxy5serve4page",
    "8b24proxy5serve5files",
    "8b24proxy5serve6status",
    "8b24proxy5serve7webhook",
    "8b24proxy7install",
    "addr2line",
    "gimli",
    "rustc_demangle",
    "signal_hook",
];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let target = |name: &str| std::env::var(format!("CARGO_CFG_TARGET_{name}")).unwrap_or_default();
    if target("OS") != "linux" {
        return;
    }
    place_apart();
    if target("ENV") == "gnu" {
        // The standard library would load libgcc's unwinder as a shared library: a tenth of a call's CPU time, for panics
        // only, which end the program here.
        for argument in ["-Wl,--whole-archive", "-lgcc_eh", "-Wl,--no-whole-archive"] {
            println!("cargo::rustc-link-arg-bins={argument}");
        }
        // At a fixed address no pointer in the executable is to be relocated, which is a fourteenth of that time. Stack,
        // heap and libraries still move; this crate has no unsafe code.
        println!("cargo::rustc-link-arg-bins=-no-pie");
    }
}

/// Behind the rest, and not between it, that code is not read into a call's memory.
fn place_apart() {
    let sections = APART.map(|name| format!("*(.text.*{name}*)")).join(" ");
    let script = format!("SECTIONS {{ .text.apart : {{ {sections} }} }} INSERT AFTER .text;\n");
    let path = std::path::Path::new(&std::env::var_os("OUT_DIR").expect("cargo sets it")).join("apart.ld");
    std::fs::write(&path, script).expect("cargo lets a build script write there");
    println!("cargo::rustc-link-arg-bins=-Wl,-T,{}", path.display());
}
