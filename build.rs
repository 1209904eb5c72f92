//! Links libgcc's unwinder into the executable where glibc and gcc are used: Rust's standard library would load it as a
//! shared library, which costs a tenth of a call's CPU time and is for panics only, which end the program here.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let target = |name: &str| std::env::var(format!("CARGO_CFG_TARGET_{name}")).unwrap_or_default();
    if target("OS") == "linux" && target("ENV") == "gnu" {
        for argument in ["-Wl,--whole-archive", "-lgcc_eh", "-Wl,--no-whole-archive"] {
            println!("cargo::rustc-link-arg-bins={argument}");
        }
    }
}
