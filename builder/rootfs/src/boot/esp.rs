//! The files of the EFI system partition.

use bytes::Bytes;

use super::bls::{self, Entry};
use super::grub;
use super::kernel::{Kernel, Unified};
use super::pe;
use super::uki::{self, NewSection};
use super::{Boot, BootError, EspFile, Given, Image, MAX_OS_RELEASE, Mode, Options, OsRelease};
use crate::tree::FileContent;

/// Where systemd keeps its EFI programs.
const SYSTEMD: &str = "/usr/lib/systemd/boot/efi";

/// systemd-boot's configuration: the best entry starts at once, a key held
/// down shows the menu (loader.conf(5)).
const LOADER_CONF: &str = "timeout 0\n";

/// Says that `loader/entries` keeps to the specification (UAPI.1,
/// "Standard-conformance Marker File").
const ENTRIES_SREL: &str = "type1\n";

/// An EFI program and where it is from.
struct Program {
    path: String,
    content: FileContent,
}

/// Makes the files for one image.
pub(super) struct Composer<'a> {
    image: Image<'a>,
    options: &'a Options,
    os_release: &'a OsRelease,
    loader: Option<Program>,
}

impl<'a> Composer<'a> {
    /// Looks for the loader.
    pub(super) fn new(
        image: Image<'a>,
        options: &'a Options,
        os_release: &'a OsRelease,
    ) -> Result<Self, BootError> {
        let mut composer = Self {
            image,
            options,
            os_release,
            loader: None,
        };
        composer.loader = composer.find_loader()?;
        Ok(composer)
    }

    /// The disk starts the UKI that the image brings along.
    pub(super) fn of_unified(self, unified: Unified) -> Result<Boot, BootError> {
        let mut warnings = Vec::new();
        let path = &unified.kernel.path;
        let kargs = self.image.kargs(self.options.architecture)?;
        if !kargs.is_empty() {
            warnings.push(format!(
                "the kernel arguments in {} have no effect: {path} has a command line of its own",
                super::kargs::DIRECTORY
            ));
        }
        let command_line = unified.command_line.clone().unwrap_or_default();
        let arguments = super::command_line::parse(path, &command_line).unwrap_or_default();
        let own_root = format!("UUID={}", self.options.root);
        if let Some(root) = arguments.iter().rev().find(|a| a.key() == "root")
            && root.value() != Some(&own_root)
        {
            warnings.push(format!(
                "{path} boots with {root}, but the root file system of this disk has {own_root}"
            ));
        }
        if unified.uki.machine != self.options.architecture.pe_machine() {
            return Err(self.not_a_program(path, "it is for another machine"));
        }
        let os_release = unified.os_release.as_ref().unwrap_or(self.os_release);
        let mut boot = self.boot(unified.kernel.clone(), command_line, warnings);
        if self.options.mode != Mode::None {
            self.put_uki(&mut boot, unified.content, os_release);
        }
        Ok(boot)
    }

    /// The disk starts a kernel that is a file of its own.
    pub(super) fn of_parts(self, kernel: Kernel) -> Result<Boot, BootError> {
        let line = self.image.command_line(self.options)?;
        let mut boot = self.boot(kernel, line.text, line.warnings);
        match self.options.mode {
            Mode::None => {}
            Mode::Bls => self.put_entry(&mut boot)?,
            Mode::Uki => match self.find_stub()? {
                Some(stub) => self.compose_uki(&mut boot, stub)?,
                None => return Err(BootError::NoStub(self.stub_path())),
            },
            Mode::Auto => {
                let stub_given = self.options.stub.is_some() && self.options.loader.is_none();
                let stub = match &self.loader {
                    Some(_) if !stub_given => None,
                    _ => self.find_stub()?,
                };
                match stub {
                    Some(stub) => self.compose_uki(&mut boot, stub)?,
                    None => self.put_entry(&mut boot)?,
                }
            }
        }
        Ok(boot)
    }

    fn boot(&self, kernel: Kernel, command_line: String, warnings: Vec<String>) -> Boot {
        Boot {
            kernel,
            os_release: OsRelease::default(),
            command_line,
            mode: Mode::None,
            loader: None,
            esp: Vec::new(),
            entries: Vec::new(),
            warnings,
        }
    }

    fn compose_uki(&self, boot: &mut Boot, stub: Given) -> Result<(), BootError> {
        let kernel_memory = self.check_kernel(boot)?.unwrap_or(0);
        let os_release = ["/etc/os-release", "/usr/lib/os-release"]
            .into_iter()
            .find_map(|path| self.image.read(path, MAX_OS_RELEASE).transpose())
            .transpose()?
            // Without .osrel systemd-boot does not show a UKI.
            .unwrap_or_else(|| Bytes::from_static(b"ID=linux\n"));
        let mut sections = vec![
            section(".osrel", FileContent::literal(os_release)),
            section(".cmdline", FileContent::literal(boot.command_line.clone())),
            section(".uname", FileContent::literal(boot.kernel.version.clone())),
        ];
        if let Some(initrd) = &boot.kernel.initrd {
            sections.push(section(".initrd", initrd.content.clone()));
        }
        sections.push(section(".linux", boot.kernel.linux.clone()));
        sections.retain(|s| s.content.size > 0);
        let content = uki::compose(&stub.bytes, sections, kernel_memory).map_err(|source| {
            BootError::Stub {
                path: stub.path.clone(),
                source,
            }
        })?;
        self.put_uki(boot, content, self.os_release);
        if self.loader.is_none() {
            boot.loader = Some(stub.path);
        }
        Ok(())
    }

    /// Puts a UKI where systemd-boot finds it, or else where firmware does.
    fn put_uki(&self, boot: &mut Boot, content: FileContent, os_release: &OsRelease) {
        boot.mode = Mode::Uki;
        let path = if self.loader.is_some() {
            self.put_loader(boot);
            format!("EFI/Linux/{}.efi", self.entry_id(boot))
        } else {
            boot.loader = Some(boot.kernel.path.clone());
            self.options.architecture.removable_path()
        };
        boot.entries.push(Entry::unified(
            &path,
            os_release,
            Some(boot.command_line.clone()),
        ));
        boot.esp.push(EspFile { path, content });
    }

    /// Puts kernel, initramfs and a loader entry.
    fn put_entry(&self, boot: &mut Boot) -> Result<(), BootError> {
        boot.mode = Mode::Bls;
        if self.check_kernel(boot)?.is_none() {
            boot.warnings.push(format!(
                "{} is no EFI program for {}; a boot loader cannot start it",
                boot.kernel.path, self.options.architecture
            ));
        }
        let directory = format!(
            "EFI/{}/{}",
            bls::file_token(self.os_release.image_id()),
            bls::file_token(&boot.kernel.version)
        );
        let linux = format!("{directory}/linux");
        let mut entry = Entry {
            id: self.entry_id(boot),
            title: Some(self.os_release.pretty_name().to_owned()),
            version: Some(boot.kernel.version.clone()),
            sort_key: Some(self.os_release.image_id().to_owned()),
            architecture: Some(self.options.architecture.efi().to_owned()),
            linux: Some(linux.clone()),
            options: Some(boot.command_line.clone()),
            ..Entry::default()
        };
        let mut put = |path: String, content| boot.esp.push(EspFile { path, content });
        put(linux, boot.kernel.linux.clone());
        if let Some(initrd) = &boot.kernel.initrd {
            let path = format!("{directory}/initrd");
            put(path.clone(), initrd.content.clone());
            entry.initrd.push(path);
        }
        put(
            format!("loader/entries/{}.conf", entry.id),
            FileContent::literal(entry.text()),
        );
        put(
            "loader/entries.srel".to_owned(),
            FileContent::literal(ENTRIES_SREL.as_bytes()),
        );
        if self.loader.is_some() {
            self.put_loader(boot);
        } else if let Some(path) = self.put_grub(boot, &entry)? {
            boot.loader = Some(path);
        } else {
            boot.warnings.push(format!(
                "the image has neither {}, nor {}, nor GRUB in {} or {}: firmware cannot start this disk, but bootwright run can",
                self.loader_path(),
                self.stub_path(),
                grub::UPDATES,
                grub::COMPONENTS
            ));
        }
        boot.entries.push(entry);
        Ok(())
    }

    /// Puts shim and GRUB and says what firmware starts, if the image has
    /// them for this machine.
    fn put_grub(&self, boot: &mut Boot, entry: &Entry) -> Result<Option<String>, BootError> {
        let removable = self.options.architecture.removable_path();
        let Some(found) = grub::find(self.image)? else {
            return Ok(None);
        };
        let is_first = |p: &&grub::Program| p.file.path.eq_ignore_ascii_case(&removable);
        let Some(first) = found.files.iter().find(is_first) else {
            return Ok(None);
        };
        let (path, content) = (first.origin.clone(), &first.file.content);
        let head = self.image.read_range(&path, content, pe::HEAD_SIZE)?;
        self.check_program(&path, &head, content.size)?;
        // GRUB puts this before the arguments that it is given.
        let image = entry.linux.as_deref().unwrap_or_default();
        let text = format!("BOOT_IMAGE=/{image} {}", boot.command_line);
        super::command_line::check_length(self.options.architecture, &text)?;
        let (mut files, mut warnings) = found.configuration(entry);
        boot.esp.append(&mut files);
        boot.esp.extend(found.files.into_iter().map(|p| p.file));
        boot.warnings.append(&mut warnings);
        Ok(Some(path))
    }

    fn put_loader(&self, boot: &mut Boot) {
        let Some(loader) = &self.loader else {
            return;
        };
        let architecture = self.options.architecture;
        // The second is the name that bootctl looks for.
        for path in [
            architecture.removable_path(),
            format!("EFI/systemd/{}", architecture.systemd_boot()),
        ] {
            boot.esp.push(EspFile {
                path,
                content: loader.content.clone(),
            });
        }
        boot.esp.push(EspFile {
            path: "loader/loader.conf".to_owned(),
            content: FileContent::literal(LOADER_CONF.as_bytes()),
        });
        boot.loader = Some(loader.path.clone());
    }

    fn entry_id(&self, boot: &Boot) -> String {
        bls::entry_id(self.os_release.image_id(), &boot.kernel.version)
    }

    fn loader_path(&self) -> String {
        format!("{SYSTEMD}/{}", self.options.architecture.systemd_boot())
    }

    fn stub_path(&self) -> String {
        format!("{SYSTEMD}/{}", self.options.architecture.systemd_stub())
    }

    fn find_loader(&self) -> Result<Option<Program>, BootError> {
        if let Some(given) = &self.options.loader {
            self.check_program(&given.path, &given.bytes, given.bytes.len() as u64)?;
            return Ok(Some(Program {
                path: given.path.clone(),
                content: FileContent::literal(given.bytes.clone()),
            }));
        }
        // Signed by the distribution, if it is.
        for path in [format!("{}.signed", self.loader_path()), self.loader_path()] {
            if let Some(found) = self.image.file(&path)? {
                let head = self.image.read_range(&path, found, pe::HEAD_SIZE)?;
                self.check_program(&path, &head, found.size)?;
                let content = found.clone();
                return Ok(Some(Program { path, content }));
            }
        }
        Ok(None)
    }

    fn find_stub(&self) -> Result<Option<Given>, BootError> {
        let stub = match &self.options.stub {
            Some(given) => Some(given.clone()),
            None => {
                let path = self.stub_path();
                let bytes = self.image.read(&path, uki::MAX_STUB)?;
                bytes.map(|bytes| Given { path, bytes })
            }
        };
        if let Some(stub) = &stub {
            self.check_program(&stub.path, &stub.bytes, stub.bytes.len() as u64)?;
        }
        Ok(stub)
    }

    /// Checks that a loader or a stub is an EFI program for the machine.
    fn check_program(&self, path: &str, head: &Bytes, len: u64) -> Result<(), BootError> {
        let head = head.get(..pe::HEAD_SIZE as usize).unwrap_or(head);
        let headers = pe::parse(head, len).map_err(|e| self.not_a_program(path, &e.to_string()))?;
        if headers.machine != self.options.architecture.pe_machine() {
            return Err(self.not_a_program(path, "it is for another machine"));
        }
        if headers.subsystem != pe::EFI_APPLICATION {
            return Err(self.not_a_program(path, "it is another kind of program"));
        }
        Ok(())
    }

    fn not_a_program(&self, path: &str, why: &str) -> BootError {
        BootError::NotAProgram {
            path: path.to_owned(),
            architecture: self.options.architecture,
            why: why.to_owned(),
        }
    }

    /// How much memory the kernel takes as an EFI program, if it is one.
    fn check_kernel(&self, boot: &Boot) -> Result<Option<u32>, BootError> {
        let Kernel { path, linux, .. } = &boot.kernel;
        let head = self.image.read_range(path, linux, pe::HEAD_SIZE)?;
        Ok(match pe::parse(&head, linux.size) {
            Ok(h) if h.machine == self.options.architecture.pe_machine() => Some(h.size_of_image),
            _ => None,
        })
    }
}

fn section(name: &'static str, content: FileContent) -> NewSection {
    NewSection { name, content }
}
