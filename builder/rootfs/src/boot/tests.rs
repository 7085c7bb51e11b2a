//! Whole images: what they boot with, and what is refused.

use std::fmt::Write as _;

use super::*;
use crate::tree::{Inode, Timestamp};

const ROOT: Uuid = Uuid::from_u128(0x11111111_2222_4333_8444_555555555555);
const DEBIAN: &str = "ID=debian\nPRETTY_NAME=\"Debian GNU/Linux 13 (trixie)\"\nVERSION_ID=13\n";
const FEDORA: &str = "ID=fedora\nPRETTY_NAME=\"Fedora Linux 42\"\nVERSION_ID=42\n";
const STUB: &str = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub";
const LOADER: &str = "/usr/lib/systemd/boot/efi/systemd-bootx64.efi";

/// One of systemd's real EFI programs, from the machine's own packages.
fn systemd(path: &str) -> Bytes {
    match std::fs::read(path) {
        Ok(bytes) => bytes.into(),
        Err(e) => panic!("{path}: {e}; install systemd-boot-efi, the tests need its EFI programs"),
    }
}

/// An image of these files; a content that begins with `-> ` is a symlink.
fn image(files: &[(&str, &[u8])]) -> Tree {
    let mut tree = Tree::new(Vec::new());
    let time = Timestamp::default();
    let directory = Inode::directory(0o755, time);
    for (path, content) in files {
        let (parent, name) = path.rsplit_once('/').unwrap();
        let parent = tree
            .make_directories(parent.as_bytes(), &directory)
            .unwrap();
        let inode = match content.strip_prefix(b"-> ") {
            Some(target) => Inode::symlink(target, time),
            None => Inode::file(FileContent::literal(content.to_vec()), 0o644, time),
        };
        tree.insert(parent, name.as_bytes(), inode).unwrap();
    }
    tree
}

fn options() -> Options {
    Options {
        architecture: Architecture::X86_64,
        root: ROOT,
        mode: Mode::Auto,
        kargs: Vec::new(),
        delete_kargs: Vec::new(),
        stub: None,
        loader: None,
    }
}

fn boot(files: &[(&str, &[u8])], options: &Options) -> Result<Boot, BootError> {
    prepare(&image(files), &SourceReader::new(Vec::new()), options)
}

fn error(files: &[(&str, &[u8])], options: &Options) -> String {
    boot(files, options).unwrap_err().to_string()
}

fn text(content: &FileContent) -> String {
    let bytes = content::read(content, &SourceReader::new(Vec::new()), 0..u64::MAX).unwrap();
    String::from_utf8(bytes).unwrap()
}

/// All that matters of a [`Boot`] for people to review.
fn describe(boot: &Boot) -> String {
    let mut out = String::new();
    let initrd = boot.kernel.initrd.as_ref().map(|i| i.path.as_str());
    writeln!(
        out,
        "{:?}: kernel {} {} initrd {}\nloader {}\ncommand line {}",
        boot.mode,
        boot.kernel.version,
        boot.kernel.path,
        initrd.unwrap_or("none"),
        boot.loader.as_deref().unwrap_or("none"),
        boot.command_line,
    )
    .unwrap();
    for file in &boot.esp {
        writeln!(out, "esp {} ({} bytes)", file.path, file.content.size).unwrap();
        if file.path.starts_with("loader/") {
            text(&file.content)
                .lines()
                .for_each(|line| writeln!(out, "  | {line}").unwrap());
        }
    }
    for entry in &boot.entries {
        let title = entry.title.as_deref().unwrap_or_default();
        writeln!(out, "entry {} {title:?}", entry.id).unwrap();
    }
    for warning in &boot.warnings {
        writeln!(out, "warning: {warning}").unwrap();
    }
    out
}

#[test]
fn a_debian_image_boots_by_a_loader_entry() {
    let (stub, loader) = (systemd(STUB), systemd(LOADER));
    let boot = boot(
        &[
            ("/etc/os-release", b"-> ../usr/lib/os-release"),
            ("/usr/lib/os-release", DEBIAN.as_bytes()),
            ("/vmlinuz", b"-> boot/vmlinuz-6.12.9+deb13-cloud-amd64"),
            ("/boot/vmlinuz-6.12.9+deb13-cloud-amd64", &stub),
            ("/boot/initrd.img-6.12.9+deb13-cloud-amd64", b"initrd"),
            (
                "/usr/lib/modules/6.12.9+deb13-cloud-amd64/modules.dep",
                b"x",
            ),
            (STUB, &stub),
            (LOADER, &loader),
            ("/usr/lib/bootc/kargs.d/20-b.toml", b"kargs = ['b=2']"),
            (
                "/usr/lib/bootc/kargs.d/10-a.toml",
                b"kargs = ['a=1', 'quiet']",
            ),
            (
                "/usr/lib/bootc/kargs.d/30-arm.toml",
                b"kargs = ['arm']\nmatch-architectures = ['aarch64']",
            ),
            ("/usr/lib/bootc/kargs.d/README", b"not = [a kargs file"),
        ],
        &Options {
            kargs: vec!["c=3".into()],
            delete_kargs: vec!["quiet".into()],
            ..options()
        },
    )
    .unwrap();
    let sizes = boot.kernel.linux.size;
    assert_eq!(sizes, stub.len() as u64);
    insta::assert_snapshot!(
        describe(&boot)
            .replace(&loader.len().to_string(), "LOADER")
            .replace(&sizes.to_string(), "KERNEL")
    );
}

#[test]
fn a_fedora_image_without_a_loader_is_only_for_the_launcher() {
    let boot = boot(
        &[
            ("/usr/lib/os-release", FEDORA.as_bytes()),
            ("/usr/lib/modules/6.9.1-200.fc42.x86_64/vmlinuz", b"old"),
            ("/usr/lib/modules/6.10.2-200.fc42.x86_64/vmlinuz", b"new"),
            ("/boot/initramfs-6.10.2-200.fc42.x86_64.img", b"initrd"),
            ("/boot/vmlinuz-0-rescue-1234", b"rescue"),
            ("/boot/vmlinuz-6.10.2-200.fc42.x86_64", b"the same in /boot"),
            ("/boot/vmlinuz-7.0", b""),
            ("/boot/vmlinuz-8.0", b"-> /nowhere"),
        ],
        &options(),
    )
    .unwrap();
    insta::assert_snapshot!(describe(&boot));
}

#[test]
fn an_image_with_grub_for_bootupd_boots_by_it() {
    // Any EFI program will do for shim and GRUB.
    let program = systemd(LOADER);
    let boot = boot(
        &[
            ("/usr/lib/os-release", FEDORA.as_bytes()),
            ("/usr/lib/modules/6.10/vmlinuz", &program),
            ("/usr/lib/modules/6.10/initramfs.img", b"initrd"),
            ("/usr/lib/bootupd/updates/EFI.json", b"{}"),
            ("/usr/lib/bootupd/updates/EFI/BOOT/BOOTX64.EFI", &program),
            ("/usr/lib/bootupd/updates/EFI/BOOT/fbx64.efi", &program),
            ("/usr/lib/bootupd/updates/EFI/fedora/BOOTX64.CSV", b"shim"),
            ("/usr/lib/bootupd/updates/EFI/fedora/grubx64.efi", &program),
            ("/usr/lib/bootupd/updates/EFI/fedora/grub.cfg", b"old"),
        ],
        &options(),
    )
    .unwrap();
    let config = boot.esp.iter().find(|f| f.path == "EFI/fedora/grub.cfg");
    let described = describe(&boot) + &text(&config.unwrap().content);
    insta::assert_snapshot!(described.replace(&program.len().to_string(), "PROGRAM"));
}

#[test]
fn an_image_with_the_packages_own_shim_and_grub_boots_by_them() {
    let program = systemd(LOADER);
    let boot = boot(
        &[
            ("/usr/lib/os-release", FEDORA.as_bytes()),
            ("/usr/lib/modules/6.17/vmlinuz", &program),
            ("/usr/lib/modules/6.17/initramfs.img", b"initrd"),
            ("/usr/lib/bootupd/updates/EFI.json", b"{}"),
            ("/usr/lib/efi/shim/15.8-3/EFI/BOOT/BOOTX64.EFI", &program),
            ("/usr/lib/efi/shim/15.8-3/EFI/fedora/shimx64.efi", &program),
            ("/usr/lib/efi/shim/15.4-1/EFI/fedora/old.efi", &program),
            (
                "/usr/lib/efi/grub2/1:2.12-40/EFI/fedora/grubx64.efi",
                &program,
            ),
        ],
        &options(),
    )
    .unwrap();
    assert!(boot.warnings.is_empty(), "{:?}", boot.warnings);
    let loader = "/usr/lib/efi/shim/15.8-3/EFI/BOOT/BOOTX64.EFI";
    assert_eq!(boot.loader.as_deref(), Some(loader));
    let programs = boot.esp.iter().map(|f| f.path.as_str());
    let programs: Vec<_> = programs.filter(|p| !p.contains("6.17")).collect();
    assert_eq!(
        programs,
        [
            "EFI/BOOT/BOOTX64.EFI",
            "EFI/fedora/grub.cfg",
            "EFI/fedora/grubx64.efi",
            "EFI/fedora/shimx64.efi",
            "loader/entries.srel",
        ]
    );
}

#[test]
fn kernels_are_found_where_distributions_keep_them() {
    let cases: &[(&str, &[&str], [&str; 3])] = &[
        (
            "Ubuntu",
            &[
                "/boot/vmlinuz-6.8.0-50-generic",
                "/boot/initrd.img-6.8.0-50-generic",
                "/boot/config-6.8.0-50-generic",
                "/boot/System.map-6.8.0-50-generic",
                "/boot/vmlinuz.old",
            ],
            [
                "6.8.0-50-generic",
                "/boot/vmlinuz-6.8.0-50-generic",
                "/boot/initrd.img-6.8.0-50-generic",
            ],
        ),
        (
            "Alpine",
            &[
                "/boot/vmlinuz-virt",
                "/boot/initramfs-virt",
                "/boot/config-6.12.13-0-virt",
                "/lib/modules/6.12.13-0-virt/modules.dep",
            ],
            ["virt", "/boot/vmlinuz-virt", "/boot/initramfs-virt"],
        ),
        (
            "openSUSE, with a copy for debuggers",
            &[
                "/usr/lib/modules/6.4.0-1-default/vmlinuz",
                "/usr/lib/modules/6.4.0-1-default/initrd",
                "/boot/vmlinux-6.4.0-1-default.xz",
                "/boot/.vmlinuz-6.4.0-1-default.hmac",
            ],
            [
                "6.4.0-1-default",
                "/usr/lib/modules/6.4.0-1-default/vmlinuz",
                "/usr/lib/modules/6.4.0-1-default/initrd",
            ],
        ),
        (
            "openSUSE on ARM",
            &[
                "/usr/lib/modules/6.4.0-1-default/Image",
                "/boot/Image-6.4.0-1-default",
                "/boot/initrd-6.4.0-1-default",
            ],
            [
                "6.4.0-1-default",
                "/usr/lib/modules/6.4.0-1-default/Image",
                "/boot/initrd-6.4.0-1-default",
            ],
        ),
        (
            "Arch Linux, where files in /boot go by the package",
            &[
                "/usr/lib/modules/6.12.1-arch1-1/vmlinuz",
                "/usr/lib/modules/6.12.1-arch1-1/pkgbase",
                "/boot/vmlinuz-linux",
                "/boot/initramfs-linux.img",
                "/boot/initramfs-linux-fallback.img",
            ],
            [
                "6.12.1-arch1-1",
                "/usr/lib/modules/6.12.1-arch1-1/vmlinuz",
                "/boot/initramfs-linux.img",
            ],
        ),
        (
            "/lib is no link",
            &["/lib/modules/6.1/vmlinuz", "/lib/modules/6.1/initramfs.img"],
            [
                "6.1",
                "/lib/modules/6.1/vmlinuz",
                "/lib/modules/6.1/initramfs.img",
            ],
        ),
    ];
    for (name, files, [version, path, initrd]) in cases {
        let files: Vec<_> = files
            .iter()
            .map(|path| match path.ends_with("pkgbase") {
                true => (*path, &b"linux\n"[..]),
                false => (*path, &b"content"[..]),
            })
            .collect();
        let boot = boot(&files, &options()).unwrap();
        let found = boot.kernel.initrd.as_ref().map(|i| i.path.as_str());
        assert_eq!(boot.kernel.version, *version, "{name}");
        assert_eq!(boot.kernel.path, *path, "{name}");
        assert_eq!(found, Some(*initrd), "{name}");
        assert!(
            boot.kernel.passed_over.is_empty(),
            "{name}: {:?}",
            boot.kernel
        );
    }
}

#[test]
fn a_unified_kernel_image_where_two_paths_lead_to_it_is_one() {
    let (ready_made, _) = ready_made();
    let files: &[(&str, &[u8])] = &[
        ("/efi/EFI/Linux/mkosi.efi", &ready_made),
        ("/boot", b"-> efi"),
    ];
    let boot = boot(files, &options()).unwrap();
    assert_eq!(boot.kernel.path, "/boot/EFI/Linux/mkosi.efi");
    assert!(boot.kernel.passed_over.is_empty());
}

#[test]
fn an_image_with_only_a_stub_boots_a_unified_kernel_image() {
    let stub = systemd(STUB);
    let files: &[(&str, &[u8])] = &[
        ("/etc/os-release", DEBIAN.as_bytes()),
        ("/boot/vmlinuz-6.1", &stub),
        ("/boot/initrd.img-6.1", b"initrd"),
        (STUB, &stub),
    ];
    let boot = boot(files, &options()).unwrap();
    let size = boot.esp[0].content.size;
    assert!(size > stub.len() as u64 && size.is_multiple_of(512));
    insta::assert_snapshot!(describe(&boot).replace(&size.to_string(), "UKI"));
}

/// A UKI as the Debian image above would carry it.
fn ready_made() -> (Vec<u8>, Boot) {
    let stub = systemd(STUB);
    let boot = boot(
        &[
            ("/etc/os-release", DEBIAN.as_bytes()),
            ("/boot/vmlinuz-6.1", &stub),
            ("/boot/initrd.img-6.1", b"initrd"),
            (STUB, &stub),
            (LOADER, &systemd(LOADER)),
        ],
        &Options {
            mode: Mode::Uki,
            kargs: vec!["x=\"a b\"".into()],
            ..options()
        },
    )
    .unwrap();
    let file = boot
        .esp
        .iter()
        .find(|f| f.path == "EFI/Linux/debian-6.1.efi");
    let content = &file.unwrap().content;
    let reader = SourceReader::new(Vec::new());
    (content::read(content, &reader, 0..u64::MAX).unwrap(), boot)
}

#[test]
fn a_unified_kernel_image_in_the_image_is_used_as_it_is() {
    let (uki, made) = ready_made();
    let stub = systemd(STUB);
    let files: &[(&str, &[u8])] = &[
        ("/etc/os-release", FEDORA.as_bytes()),
        ("/boot/EFI/Linux/debian-6.1.efi", &uki),
        ("/boot/EFI/Linux/debian-6.0.efi", &uki),
        ("/usr/lib/modules/6.2/stub.efi", &stub),
        ("/usr/lib/bootc/kargs.d/a.toml", b"kargs = ['a']"),
    ];
    let found = boot(files, &options()).unwrap();
    assert_eq!(found.command_line, made.command_line);
    assert_eq!(
        text(&found.kernel.initrd.as_ref().unwrap().content),
        "initrd"
    );
    let linux = content::read(
        &found.kernel.linux,
        &SourceReader::new(Vec::new()),
        0..u64::MAX,
    );
    assert_eq!(linux.unwrap(), stub);
    insta::assert_snapshot!(describe(&found).replace(&uki.len().to_string(), "UKI"));

    // With another UUID its own command line leads nowhere.
    let other = Options {
        root: Uuid::nil(),
        ..options()
    };
    let warnings = boot(files, &other).unwrap().warnings.join("\n");
    assert!(
        warnings.contains("boots with root=UUID=11111111-"),
        "{warnings}"
    );

    for (options, message) in [
        (
            Options {
                kargs: vec!["a".into()],
                ..options()
            },
            "--karg and --karg-delete cannot change",
        ),
        (
            Options {
                mode: Mode::Bls,
                ..options()
            },
            "--boot bls needs a kernel of its own",
        ),
        (
            Options {
                architecture: Architecture::Aarch64,
                ..options()
            },
            "is no EFI program for arm64: it is for another machine",
        ),
    ] {
        let error = error(files, &options);
        assert!(error.contains(message), "{error}");
    }
}

#[test]
fn a_kernel_beside_the_unified_one_takes_the_arguments() {
    let (uki, _) = ready_made();
    let files: &[(&str, &[u8])] = &[
        ("/boot/EFI/Linux/debian-6.1.efi", &uki),
        ("/boot/vmlinuz-6.1", b"kernel"),
    ];
    let plain = boot(files, &options()).unwrap();
    assert_eq!(plain.mode, Mode::Uki);
    let changed = Options {
        kargs: vec!["a".into()],
        ..options()
    };
    let changed = boot(files, &changed).unwrap();
    assert_eq!(changed.mode, Mode::Bls);
    assert!(changed.warnings[0].contains("is not used"), "{changed:?}");
}

#[test]
fn the_mode_that_is_asked_for_is_kept_to() {
    let (stub, loader) = (systemd(STUB), systemd(LOADER));
    let kernel: (&str, &[u8]) = ("/boot/vmlinuz-6.1", &stub);
    let given = |path: &str, bytes: &Bytes| {
        Some(Given {
            path: path.into(),
            bytes: bytes.clone(),
        })
    };
    type Row<'a> = (&'a [(&'a str, &'a [u8])], Options, Mode, Option<&'a str>);
    let table: [Row; 7] = [
        (
            &[kernel, (STUB, &stub), (LOADER, &loader)],
            options(),
            Mode::Bls,
            Some(LOADER),
        ),
        (
            &[kernel, (STUB, &stub), (LOADER, &loader)],
            Options {
                mode: Mode::Uki,
                ..options()
            },
            Mode::Uki,
            Some(LOADER),
        ),
        (
            &[kernel, (LOADER, &loader)],
            Options {
                stub: given("my.stub", &stub),
                ..options()
            },
            Mode::Uki,
            Some(LOADER),
        ),
        (
            &[kernel],
            Options {
                stub: given("my.stub", &stub),
                ..options()
            },
            Mode::Uki,
            Some("my.stub"),
        ),
        (
            &[kernel],
            Options {
                loader: given("my.efi", &loader),
                ..options()
            },
            Mode::Bls,
            Some("my.efi"),
        ),
        (
            &[
                kernel,
                (LOADER, &loader),
                (&format!("{LOADER}.signed"), &loader),
            ],
            options(),
            Mode::Bls,
            Some(&format!("{LOADER}.signed")),
        ),
        (
            &[kernel, (LOADER, &loader)],
            Options {
                mode: Mode::None,
                ..options()
            },
            Mode::None,
            None,
        ),
    ];
    for (files, options, mode, loader) in table {
        let boot = boot(files, &options).unwrap();
        assert_eq!((boot.mode, boot.loader.as_deref()), (mode, loader));
        assert_eq!(boot.esp.is_empty(), mode == Mode::None);
        let removable = boot.esp.iter().any(|f| f.path == "EFI/BOOT/BOOTX64.EFI");
        assert_eq!(removable, mode != Mode::None);
    }
}

#[test]
fn what_cannot_be_booted_is_refused_by_name() {
    let stub = systemd(STUB);
    let kernel: (&str, &[u8]) = ("/boot/vmlinuz-6.1", b"kernel");
    let big = vec![b'#'; 70_000];
    let uki = Options {
        mode: Mode::Uki,
        ..options()
    };
    let not_a_stub = Options {
        stub: Some(Given {
            path: "/my/stub".into(),
            bytes: Bytes::from_static(b"hello"),
        }),
        ..options()
    };
    let arm = Options {
        architecture: Architecture::Aarch64,
        ..options()
    };
    type Row<'a> = (&'a [(&'a str, &'a [u8])], &'a Options, &'a str);
    let table: [Row; 8] = [
        (
            &[("/boot/config-6.1", b"x")],
            &options(),
            "no kernel in the image; looked for /usr/lib/modules/*/vmlinuz, /usr/lib/modules/*/Image",
        ),
        (&[kernel], &uki, "linuxx64.efi.stub is not in the image"),
        (
            &[kernel],
            &not_a_stub,
            "/my/stub is no EFI program for amd64: not a PE file",
        ),
        (
            &[
                kernel,
                ("/usr/lib/systemd/boot/efi/systemd-bootaa64.efi", &stub),
            ],
            &arm,
            "systemd-bootaa64.efi is no EFI program for arm64: it is for another machine",
        ),
        (
            &[kernel, ("/etc/os-release", &big)],
            &options(),
            "/etc/os-release in the image has 70000 bytes, more than 65536",
        ),
        (
            &[kernel, ("/usr/lib/bootc/kargs.d/x.toml", b"karg = 1")],
            &options(),
            "/usr/lib/bootc/kargs.d/x.toml in the image: ",
        ),
        (
            &[("/boot", b"-> /a"), ("/a", b"-> /boot")],
            &options(),
            "too many levels of symbolic links",
        ),
        (
            &[
                kernel,
                ("/usr/lib/bootc/kargs.d/x.toml", b"kargs = ['a=\"b']"),
            ],
            &options(),
            "x.toml: a double quote is not closed",
        ),
    ];
    for (files, options, message) in table {
        let error = error(files, options);
        assert!(error.contains(message), "{error}");
    }
}
