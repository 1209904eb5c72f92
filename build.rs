//! How the executable is linked where glibc and gcc are used: a process for each call pays for its linking each time.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let target = |name: &str| std::env::var(format!("CARGO_CFG_TARGET_{name}")).unwrap_or_default();
    if target("OS") == "linux" && target("ENV") == "gnu" {
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
