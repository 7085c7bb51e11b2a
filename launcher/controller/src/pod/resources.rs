//! Processors and memory, of the machine and of its pod.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::{Launcher, PodError};
use crate::api::domain::{Domain, MAX_CPUS, Resources};
use crate::machine::{Cpus, Interface, Memory};
use crate::quantity;

/// The resource that the node's device plugin offers.
pub(super) const KVM: &str = "bootwright.dev/kvm";

/// Set aside for a launcher besides its guest's memory, in bytes.
const OVERHEAD: u64 = 64 << 20;

/// Set aside for the sockets of a machine whose interface lists no ports, in
/// bytes: see `passt.rs` of the launcher.
const UNLISTED_OVERHEAD: u64 = 64 << 20;

/// Set aside for QEMU and its translated code as well, in bytes.
const EMULATION_OVERHEAD: u64 = 256 << 20;

/// Of how many bytes of guest memory one is set aside for page tables: each
/// page of 4 KiB has an entry of 8 bytes.
const PER_PAGE_TABLE_BYTE: u64 = 512;

/// Of a processor, what is set aside for a virtual one where the spec does not
/// say: KubeVirt's, in thousandths.
const CPU_REQUEST: u64 = 100;

/// A machine's size and its pod's.
#[derive(Debug)]
pub(super) struct Sized {
    pub(super) cpus: Cpus,
    pub(super) memory: Memory,
    pub(super) requirements: ResourceRequirements,
}

/// Sizes a machine and its pod.
pub(super) fn resources(
    domain: &Domain,
    interface: Option<&Interface>,
    launcher: &Launcher,
) -> Result<Sized, PodError> {
    let none = Resources::default();
    let asked = domain.resources.as_ref().unwrap_or(&none);
    let (cpus, memory) = size(domain)?;
    let mut requests = BTreeMap::new();
    let mut limits = BTreeMap::new();

    let request = match asked.requests.get("cpu").or(asked.limits.get("cpu")) {
        Some(request) => request.clone(),
        None => Quantity(format!("{}m", cpus.count() * CPU_REQUEST)),
    };
    requests.insert("cpu".to_owned(), request);
    if let Some(limit) = asked.limits.get("cpu") {
        limits.insert("cpu".to_owned(), limit.clone());
    }

    let emulation = if launcher.emulation {
        EMULATION_OVERHEAD
    } else {
        0
    };
    let unlisted = match interface {
        Some(Interface {
            tcp: None,
            udp: None,
            ..
        }) => UNLISTED_OVERHEAD,
        _ => 0,
    };
    let tables = memory.max_bytes.div_ceil(PER_PAGE_TABLE_BYTE);
    let overhead = (OVERHEAD + emulation + unlisted).saturating_add(tables);
    let (request, limit) = if memory.page_bytes > 0 {
        let name = if memory.page_bytes == 1 << 30 {
            "hugepages-1Gi"
        } else {
            "hugepages-2Mi"
        };
        let pages = quantity::bytes(memory.bytes);
        requests.insert(name.to_owned(), pages.clone());
        limits.insert(name.to_owned(), pages);
        (0, 0)
    } else {
        let request = amount(asked, false)?.unwrap_or(memory.bytes);
        (
            request,
            amount(asked, true)?.unwrap_or(memory.bytes).max(request),
        )
    };
    for (list, bytes) in [(&mut requests, request), (&mut limits, limit)] {
        list.insert(
            "memory".to_owned(),
            mebibytes(bytes.saturating_add(overhead)),
        );
    }
    if !launcher.emulation {
        limits.insert(KVM.to_owned(), Quantity("1".into()));
    }
    Ok(Sized {
        cpus,
        memory,
        requirements: ResourceRequirements {
            limits: Some(limits),
            requests: Some(requests),
            claims: None,
        },
    })
}

/// A machine's processors and memory.
pub(super) fn size(domain: &Domain) -> Result<(Cpus, Memory), PodError> {
    let none = Resources::default();
    let asked = domain.resources.as_ref().unwrap_or(&none);
    Ok((cpus(domain, asked)?, memory(domain, asked)?))
}

/// The topology; without one, a socket for each processor that is asked for,
/// as in KubeVirt.
fn cpus(domain: &Domain, asked: &Resources) -> Result<Cpus, PodError> {
    let cpu = domain.cpu.clone().unwrap_or_default();
    let unset = cpu.sockets.is_none() && cpu.cores.is_none() && cpu.threads.is_none();
    let wanted = asked.limits.get("cpu").or(asked.requests.get("cpu"));
    let sockets = match (unset, wanted) {
        (true, Some(wanted)) => {
            let whole = quantity::whole(wanted).map_err(|source| PodError::Quantity {
                field: "domain.resources.requests.cpu",
                source,
            })?;
            u32::try_from(whole).unwrap_or(u32::MAX).max(1)
        }
        _ => cpu.sockets.unwrap_or(1),
    };
    let cpus = Cpus {
        sockets,
        cores: cpu.cores.unwrap_or(1),
        threads: cpu.threads.unwrap_or(1),
        max_sockets: cpu.max_sockets.unwrap_or(sockets).max(sockets),
    };
    if !(1..=u64::from(MAX_CPUS)).contains(&cpus.count()) {
        let count = cpus.count();
        let text = format!("domain.cpu: {count} processors, of at most {MAX_CPUS}");
        return Err(PodError::Contradiction(text));
    }
    Ok(cpus)
}

fn memory(domain: &Domain, asked: &Resources) -> Result<Memory, PodError> {
    let memory = domain.memory.clone().unwrap_or_default();
    let read = |field, quantity: &Option<Quantity>| match quantity {
        Some(quantity) => quantity::whole(quantity)
            .map(Some)
            .map_err(|source| PodError::Quantity { field, source }),
        None => Ok(None),
    };
    let bytes = match read("domain.memory.guest", &memory.guest)? {
        Some(bytes) => bytes,
        None => match amount(asked, false)? {
            Some(bytes) => bytes,
            None => amount(asked, true)?.ok_or(PodError::NoMemory)?,
        },
    };
    if bytes == 0 {
        return Err(PodError::NoMemory);
    }
    if let Some(limit) = amount(asked, true)?.filter(|limit| *limit < bytes) {
        let text = format!(
            "domain.resources.limits.memory: {limit} bytes are less than the guest's {bytes}"
        );
        return Err(PodError::Contradiction(text));
    }
    let max_bytes = read("domain.memory.maxGuest", &memory.max_guest)?.unwrap_or(bytes);
    if max_bytes < bytes {
        let text =
            format!("domain.memory.maxGuest: {max_bytes} bytes are less than the guest's {bytes}");
        return Err(PodError::Contradiction(text));
    }
    let page_bytes = memory.hugepages.map_or(0, |pages| pages.page_size.bytes());
    if page_bytes > 0 && !bytes.is_multiple_of(page_bytes) {
        let text = format!(
            "domain.memory.guest: {bytes} bytes are no multiple of the huge pages' {page_bytes}"
        );
        return Err(PodError::Contradiction(text));
    }
    Ok(Memory {
        bytes,
        max_bytes,
        page_bytes,
    })
}

/// The amount of memory that is requested, or the limit of it.
fn amount(asked: &Resources, limit: bool) -> Result<Option<u64>, PodError> {
    let (list, field) = match limit {
        true => (&asked.limits, "domain.resources.limits.memory"),
        false => (&asked.requests, "domain.resources.requests.memory"),
    };
    let read = |quantity| quantity::whole(quantity);
    (list.get("memory").map(read).transpose())
        .map_err(|source| PodError::Quantity { field, source })
}

/// So many bytes, rounded up to a mebibyte.
fn mebibytes(bytes: u64) -> Quantity {
    Quantity(format!("{}Mi", bytes.div_ceil(1 << 20)))
}
