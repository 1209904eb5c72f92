//! The package for Debian, made by `deploy/release/package.sh`, and what dpkg does with it: into a folder, and as root of that
//! alone (fakeroot). That the program works which is in it, others see.

use super::{output, repository};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const VERSION: &str = env!("CARGO_PKG_VERSION");

const CONFFILES: [&str; 6] = [
    "/etc/apache2/conf-available/b24proxy-fcgid.conf",
    "/etc/apache2/conf-available/b24proxy-proxy.conf",
    "/etc/apache2/conf-available/b24proxy-root.conf",
    "/etc/apache2/conf-available/b24proxy.conf",
    "/etc/nginx/snippets/b24proxy-root.conf",
    "/etc/nginx/snippets/b24proxy.conf",
];

/// An empty folder.
fn folder(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("package").join(name);
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).unwrap();
    path
}

/// A script in place of the executable: nothing that is packed is run.
fn executable(folder: &Path) -> PathBuf {
    let path = folder.join("executable");
    fs::write(&path, "#!/bin/sh\n").unwrap();
    path
}

fn make(executable: &Path, architecture: &str, folder: &Path) -> Command {
    let release = repository().join("deploy/release");
    output(
        Command::new("python3").arg(release.join("sbom.py")).arg(folder.join(format!("b24proxy_{VERSION}.cdx.json"))),
    );
    let mut make = Command::new("sh");
    make.arg(release.join("package.sh")).arg(executable).arg(architecture).arg(folder);
    make
}

/// The package in that folder.
fn made(name: &str) -> PathBuf {
    let folder = folder(name);
    output(&mut make(&executable(&folder), "amd64", &folder));
    folder.join(format!("b24proxy_{VERSION}_amd64.deb"))
}

fn unpacked(package: &Path, name: &str) -> PathBuf {
    let root = folder(name);
    output(Command::new("dpkg-deb").arg("--raw-extract").args([package, &root]));
    root
}

#[test]
fn the_same_executable_makes_the_same_package_wherever_it_is_made_and_whenever() {
    let one = folder("one");
    output(&mut make(&executable(&one), "arm64", &one));
    let package = format!("b24proxy_{VERSION}_arm64.deb");
    let sum = format!("{package}.sha256");
    assert!(fs::read_to_string(one.join(&sum)).unwrap().ends_with(&format!("  {package}\n")));
    output(Command::new("sha256sum").args(["--check", "--strict", &sum]).current_dir(&one));

    // Files have times in whole seconds.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let other = folder("other");
    // By somebody whose files nobody else may read, in a copy without git.
    let script = r#"
        umask 077
        cp -R CHANGELOG.md Cargo.toml LICENSE README.md README.ru.md SECURITY.md deploy docs \
            proxy.toml.example "$other"
        cp "$one/executable" "$one"/*.cdx.json "$one"/*.licences.txt "$other"
        SOURCE_DATE_EPOCH=$(sh deploy/release/epoch.sh)
        export SOURCE_DATE_EPOCH
        cd "$other"
        sh deploy/release/package.sh executable arm64 .
    "#;
    output(
        Command::new("sh")
            .args(["-euc", script])
            .current_dir(repository())
            .envs([("one", &one), ("other", &other)])
            .envs([("TZ", "Asia/Vladivostok"), ("LC_ALL", "C.UTF-8")]),
    );
    assert!(fs::read(one.join(&package)).unwrap() == fs::read(other.join(&package)).unwrap(), "{package}");
}

#[test]
fn in_a_copy_without_git_its_time_is_the_day_of_the_newest_release() {
    let copy = folder("copy");
    let script = copy.join("deploy/release/epoch.sh");
    fs::create_dir_all(script.parent().unwrap()).unwrap();
    fs::copy(repository().join("deploy/release/epoch.sh"), &script).unwrap();
    fs::write(copy.join("CHANGELOG.md"), "## [Unreleased]\n\n## [2.0.0] - 2027-01-15\n\n## [1.0.0] - 2026-01-15\n")
        .unwrap();
    assert_eq!(output(Command::new("sh").arg(&script)), "1799971200\n");
    fs::write(copy.join("CHANGELOG.md"), "## [Unreleased]\n").unwrap();
    assert!(!Command::new("sh").arg(&script).status().unwrap().success());
}

#[test]
fn it_has_everything_in_its_place_and_all_of_it_is_roots() {
    let package = made("contents");
    let list = output(Command::new("dpkg-deb").arg("--contents").arg(&package));
    // Mode, owner, size, day, time, path with a link's target.
    let entries: Vec<(&str, &str)> = list
        .lines()
        .map(|line| {
            let (mode, rest) = line.split_once(' ').unwrap();
            assert!(rest.starts_with("root/root "), "{line}");
            (mode, &line[line.find(" ./").expect("a path") + 2..])
        })
        .collect();
    for (mode, path) in [
        ("-rwxr-xr-x", "/usr/lib/cgi-bin/b24proxy"),
        ("lrwxrwxrwx", "/usr/bin/b24proxy -> ../lib/cgi-bin/b24proxy"),
        ("-rw-r--r--", "/usr/lib/systemd/system/b24proxy.service"),
        ("-rw-r--r--", "/usr/lib/systemd/system/b24proxy.socket"),
        ("-rw-r--r--", "/usr/share/b24proxy/systemd/b24proxy.service"),
        ("-rw-r--r--", "/usr/share/b24proxy/proxy.toml.example"),
        ("-rw-r--r--", "/usr/share/b24proxy/1c/b24proxy.bsl"),
        ("-rw-r--r--", "/usr/share/b24proxy/apache/htaccess"),
        ("-rw-r--r--", "/usr/share/b24proxy/cron.d/b24proxy"),
        ("-rw-r--r--", "/usr/share/b24proxy/lighttpd/b24proxy.conf"),
        ("-rw-r--r--", "/usr/share/b24proxy/logrotate/b24proxy"),
        ("-rw-r--r--", "/usr/share/b24proxy/nginx/b24proxy-log.conf"),
        ("-rw-r--r--", "/usr/share/bash-completion/completions/b24proxy"),
        ("-rw-r--r--", "/usr/share/zsh/vendor-completions/_b24proxy"),
        ("-rw-r--r--", "/usr/share/fish/vendor_completions.d/b24proxy.fish"),
        ("-rw-r--r--", "/usr/share/man/man1/b24proxy.1.gz"),
        ("-rw-r--r--", "/usr/share/doc/b24proxy/README.md"),
        ("-rw-r--r--", "/usr/share/doc/b24proxy/README.ru.md"),
        ("-rw-r--r--", "/usr/share/doc/b24proxy/changelog.gz"),
        ("-rw-r--r--", "/usr/share/doc/b24proxy/copyright"),
        ("-rw-r--r--", &format!("/usr/share/doc/b24proxy/b24proxy_{VERSION}.cdx.json")),
        ("-rw-r--r--", &format!("/usr/share/doc/b24proxy/b24proxy_{VERSION}.licences.txt")),
    ]
    .into_iter()
    .chain(CONFFILES.map(|path| ("-rw-r--r--", path)))
    {
        assert!(entries.contains(&(mode, path)), "{mode} {path} is not in\n{list}");
    }
    for (mode, path) in entries {
        let expected = match path {
            "/usr/lib/cgi-bin/b24proxy" => "-rwxr-xr-x",
            _ if path.ends_with('/') => "drwxr-xr-x",
            _ if path.contains(" -> ") => "lrwxrwxrwx",
            _ => "-rw-r--r--",
        };
        assert_eq!(mode, expected, "{path}");
        // What the administrator has is made by postinst: dpkg would remove it, or ask about it.
        assert!(!path.starts_with("/etc/b24proxy"), "{path}");
    }

    let root = unpacked(&package, "contents/root");
    let conffiles = fs::read_to_string(root.join("DEBIAN/conffiles")).unwrap();
    assert_eq!(conffiles.lines().collect::<Vec<_>>(), CONFFILES);
    output(Command::new("md5sum").args(["--check", "--strict", "--quiet", "DEBIAN/md5sums"]).current_dir(&root));
    for link in ["deploy/1c/README.ru.md", "proxy.toml.example", "LICENSE"] {
        assert!(root.join("usr/share/doc/b24proxy").join(link).is_file(), "{link} leads nowhere");
    }
    let control = fs::read_to_string(root.join("DEBIAN/control")).unwrap();
    for line in [&format!("Version: {VERSION}"), "Architecture: amd64"] {
        assert!(control.lines().any(|is| is == line), "{line}: {control}");
    }
    for needed in ["Depends", "Recommends"] {
        assert!(!control.contains(needed), "it needs nothing: {control}");
    }
}

/// Below the folder of documents.
fn documents(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap()) {
        let path = entry.path();
        if entry.file_type().unwrap().is_dir() {
            documents(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "md") {
            found.push(path);
        }
    }
}

#[test]
fn the_documents_name_the_packages_of_this_version() {
    let mut named = 0;
    for document in ["README.md", "README.ru.md"] {
        let text = fs::read_to_string(repository().join(document)).unwrap();
        for rest in text.split("b24proxy_").skip(1) {
            assert!(rest.starts_with(&format!("{VERSION}_")), "{document}: b24proxy_{:.20}", rest);
            named += 1;
        }
    }
    assert!(named >= 8, "{named}");
}

#[test]
fn the_links_of_its_documents_lead_to_what_is_in_it() {
    let root = unpacked(&made("links"), "links/root");
    let (mut found, mut count) = (Vec::new(), 0);
    documents(&root.join("usr/share/doc/b24proxy"), &mut found);
    for document in found {
        for link in fs::read_to_string(&document).unwrap().split("](").skip(1) {
            let target = link.split([')', '#', ' ']).next().unwrap();
            // What only the sources have: it is for whoever changes them.
            let of_the_sources = ["CONTRIBUTING.md", "tests/"].iter().any(|name| target.contains(name));
            if target.is_empty() || target.contains("://") || of_the_sources {
                continue;
            }
            assert!(document.with_file_name(target).exists(), "{}: {target}", document.display());
            count += 1;
        }
    }
    assert!(count > 20, "only {count} links were found");
}

#[test]
fn it_is_not_made_for_an_unknown_processor_or_without_the_bill_of_materials() {
    let folder = folder("refused");
    let executable = executable(&folder);
    let refused = |command: &mut Command| {
        let output = command.output().unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(refused(&mut make(&executable, "x86-64", &folder)).contains("x86-64"));
    let mut make = make(&executable, "amd64", &folder);
    fs::remove_file(folder.join(format!("b24proxy_{VERSION}.cdx.json"))).unwrap();
    assert!(refused(&mut make).contains("sbom.py"));
    assert!(!folder.join(format!("b24proxy_{VERSION}_amd64.deb")).exists());
}

/// Runs this with `$root`, a Debian of empty folders, `dpkg` that works in it, and `$package` and `$newer`, of a later version.
fn in_a_debian(name: &str, script: &str) {
    let package = made(name);
    let newer = unpacked(&package, &format!("{name}/newer"));
    let change = |path: &str, change: &dyn Fn(String) -> String| {
        let path = newer.join(path);
        fs::write(&path, change(fs::read_to_string(&path).unwrap())).unwrap();
    };
    change("DEBIAN/control", &|text| text.replace(&format!("Version: {VERSION}\n"), "Version: 99.0\n"));
    for path in ["etc/apache2/conf-available/b24proxy.conf", "etc/nginx/snippets/b24proxy.conf"] {
        change(path, &|text| text + "# newer\n");
    }
    change("usr/share/b24proxy/proxy.toml.example", &|text| text + "# newer\n");
    output(Command::new("dpkg-deb").arg("--root-owner-group").arg("--build").arg(&newer));

    let root = folder(&format!("{name}/root"));
    let script = format!(
        r#"
        set -eu
        mkdir -p "$root/var/lib/dpkg/info" "$root/var/lib/dpkg/updates" "$root/etc/apache2/conf-enabled" "$root/etc/nginx"
        touch "$root/var/lib/dpkg/status"
        dpkg() {{
            command dpkg --root="$root" --log=/dev/null \
                --force-script-chrootless,confdef,confold,architecture "$@" </dev/null
        }}
        etc=$root/etc/b24proxy
        is() {{
            [ "$1" = "$2" ] || {{ echo "\"$1\" is not \"$2\"" >&2; exit 1; }}
        }}
        {script}"#
    );
    output(
        Command::new("fakeroot")
            .args(["sh", "-c", &script])
            .envs([("root", root), ("package", package), ("newer", newer.with_extension("deb"))])
            .env("PATH", format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default())),
    );
}

#[test]
fn the_first_installation_makes_proxy_toml_for_the_web_servers_user_alone() {
    in_a_debian(
        "first",
        r#"
        dpkg --install "$package"
        is "$(stat -c "%U:%G %a" "$etc")" "www-data:www-data 700"
        is "$(stat -c "%U:%G %a" "$etc/proxy.toml")" "www-data:www-data 600"
        cmp "$etc/proxy.toml" "$root/usr/share/b24proxy/proxy.toml.example"
        is "$(ls -A "$etc")" proxy.toml
        # Nothing is enabled.
        is "$(ls "$root/etc/apache2/conf-enabled")" ""
        [ ! -e "$root/etc/systemd" ]
        "#,
    );
}

#[test]
fn what_is_there_already_is_left_as_it_is_by_the_first_installation_too() {
    in_a_debian(
        "there",
        r#"
        mkdir -m 750 "$etc" "$root/srv"
        ln -s "$root/srv/made-later.toml" "$etc/proxy.toml"
        dpkg --install "$package"
        is "$(stat -c "%U %a" "$etc")" "root 750"
        is "$(readlink "$etc/proxy.toml")" "$root/srv/made-later.toml"
        [ ! -e "$root/srv/made-later.toml" ]
        "#,
    );
}

#[test]
fn an_update_leaves_proxy_toml_the_tokens_and_every_changed_file_of_a_web_server() {
    in_a_debian(
        "update",
        r#"
        dpkg --install "$package"
        printf 'mine\r\n' >"$etc/proxy.toml"
        chmod 640 "$etc/proxy.toml"
        mkdir "$etc/tokens"
        echo token >"$etc/tokens/acme.json"
        apache=$root/etc/apache2/conf-available/b24proxy.conf
        echo '# changed' >>"$apache"
        before=$(sha256sum "$etc/proxy.toml" "$etc/tokens/acme.json" "$apache")
        dpkg --install "$newer"
        is "$(sha256sum "$etc/proxy.toml" "$etc/tokens/acme.json" "$apache")" "$before"
        is "$(stat -c %a "$etc/proxy.toml")" 640
        # The others are new.
        is "$(tail -n 1 "$root/etc/nginx/snippets/b24proxy.conf")" '# newer'
        is "$(tail -n 1 "$root/usr/share/b24proxy/proxy.toml.example")" '# newer'
        # Back, and once more the same.
        dpkg --install "$package"
        dpkg --install "$package"
        is "$(sha256sum "$etc/proxy.toml" "$etc/tokens/acme.json" "$apache")" "$before"
        "#,
    );
}

#[test]
fn removing_keeps_the_configuration_and_the_tokens_and_purging_deletes_them() {
    in_a_debian(
        "removal",
        r#"
        dpkg --install "$package"
        echo mine >"$etc/proxy.toml"
        mkdir "$etc/tokens"
        echo token >"$etc/tokens/acme.json"
        enabled=$root/etc/apache2/conf-enabled
        ln -s ../conf-available/b24proxy.conf "$enabled/b24proxy.conf"
        echo theirs >"$root/etc/apache2/conf-available/other.conf"
        ln -s ../conf-available/other.conf "$enabled/b24proxy-root.conf"
        echo 'include snippets/b24proxy.conf;' >"$root/etc/nginx/site"
        echo '# include snippets/b24proxy.conf;' >"$root/etc/nginx/other"

        dpkg --remove b24proxy
        is "$(cat "$etc/proxy.toml" "$etc/tokens/acme.json")" "$(printf 'mine\ntoken')"
        [ ! -e "$root/usr/lib/cgi-bin/b24proxy" ]
        # Both web servers go on.
        [ -e "$enabled/b24proxy.conf" ]
        [ -e "$root/etc/nginx/snippets/b24proxy.conf" ]

        # Installed again, it goes on where it was.
        dpkg --install "$package"
        is "$(cat "$etc/proxy.toml")" mine

        dpkg --purge b24proxy 2>"$root/said"
        [ ! -e "$etc" ]
        [ ! -e "$root/etc/apache2/conf-available/b24proxy.conf" ]
        # What leads somewhere is not the package's.
        is "$(ls -A "$enabled")" b24proxy-root.conf
        rm "$enabled/b24proxy-root.conf"
        is "$(grep -c '^b24proxy: ' "$root/said")" 1
        grep -F "out of $root/etc/nginx/site: nginx" "$root/said"
        is "$(find "$root" -name '*b24proxy*')" ""
        "#,
    );
}

#[test]
fn each_script_does_what_dpkg_may_ask_of_it_twice_and_nothing_else() {
    in_a_debian(
        "scripts",
        r#"
        dpkg --install "$package"
        export DPKG_ROOT="$root"
        info=$root/var/lib/dpkg/info/b24proxy
        for script in postinst prerm postrm; do
            sh -n "$info.$script"
            if sh "$info.$script" nonsense; then exit 1; fi
        done
        twice() {
            script=$1
            shift
            sh "$info.$script" "$@"
            sh "$info.$script" "$@"
        }
        for words in "configure" "configure 0.1" "abort-upgrade 99" "abort-remove" "abort-deconfigure in-favour x 1"; do
            twice postinst $words
        done
        for words in "upgrade 99" "deconfigure in-favour x 1" "failed-upgrade 0.1" "remove"; do
            twice prerm $words
        done
        for words in "upgrade 99" "failed-upgrade 0.1" "abort-install" "abort-upgrade 0.1" "disappear x 1" "remove"; do
            twice postrm $words
        done
        [ -e "$etc/proxy.toml" ]
        twice postrm purge
        [ ! -e "$etc" ]
        "#,
    );
}
