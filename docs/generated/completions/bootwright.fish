# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_bootwright_global_optspecs
    string join \n h/help V/version
end

function __fish_bootwright_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_bootwright_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_bootwright_using_subcommand
    set -l cmd (__fish_bootwright_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c bootwright -n "__fish_bootwright_needs_command" -s h -l help -d 'Print help'
complete -c bootwright -n "__fish_bootwright_needs_command" -s V -l version -d 'Print version'
complete -c bootwright -n "__fish_bootwright_needs_command" -f -a "build" -d 'Build a bootable disk from a container image'
complete -c bootwright -n "__fish_bootwright_needs_command" -f -a "run" -d 'Boot an image or a disk in a virtual machine'
complete -c bootwright -n "__fish_bootwright_needs_command" -f -a "ps" -d 'List machines'
complete -c bootwright -n "__fish_bootwright_needs_command" -f -a "ssh" -d 'Open a shell or run a command in a machine'
complete -c bootwright -n "__fish_bootwright_needs_command" -f -a "cp" -d 'Copy files to or from a machine'
complete -c bootwright -n "__fish_bootwright_needs_command" -f -a "console" -d 'Connect to a machine\'s console'
complete -c bootwright -n "__fish_bootwright_needs_command" -f -a "logs" -d 'Show what was on a machine\'s console'
complete -c bootwright -n "__fish_bootwright_needs_command" -f -a "stop" -d 'Press a machine\'s power button, and end it if that does not help in time'
complete -c bootwright -n "__fish_bootwright_needs_command" -f -a "restart" -d 'Stop a machine that is kept, and start it again'
complete -c bootwright -n "__fish_bootwright_needs_command" -f -a "pause" -d 'Hold a machine'
complete -c bootwright -n "__fish_bootwright_needs_command" -f -a "resume" -d 'Let a machine go on'
complete -c bootwright -n "__fish_bootwright_needs_command" -f -a "resize" -d 'Change a running machine\'s processors and memory'
complete -c bootwright -n "__fish_bootwright_needs_command" -f -a "rm" -d 'Remove machines and what they have written'
complete -c bootwright -n "__fish_bootwright_needs_command" -f -a "ssh-proxy" -d 'Connect standard input and output to a machine\'s ssh server; `ssh` starts this'
complete -c bootwright -n "__fish_bootwright_needs_command" -f -a "console-proxy" -d 'Connect standard input and output to a machine\'s console; `kubectl bootwright` starts this'
complete -c bootwright -n "__fish_bootwright_needs_command" -f -a "machine" -d 'Run a virtual machine whose folder is prepared; `run` starts this'
complete -c bootwright -n "__fish_bootwright_needs_command" -f -a "launch" -d 'Run the virtual machine of a Kubernetes pod'
complete -c bootwright -n "__fish_bootwright_needs_command" -f -a "probe" -d 'Succeed if the guest of a pod has booted, or a probe\'s command succeeds in it'
complete -c bootwright -n "__fish_bootwright_needs_command" -f -a "node" -d 'Offer /dev/kvm to the pods of a Kubernetes node'
complete -c bootwright -n "__fish_bootwright_needs_command" -f -a "become-passt" -d 'Become passt in a container; `launch` starts this'
complete -c bootwright -n "__fish_bootwright_needs_command" -f -a "inspect" -d 'Show what an image or a disk holds'
complete -c bootwright -n "__fish_bootwright_needs_command" -f -a "push" -d 'Store a disk in a registry, as an image that shares its layers with others'
complete -c bootwright -n "__fish_bootwright_needs_command" -f -a "verify" -d 'Compare a disk with the one that an image makes'
complete -c bootwright -n "__fish_bootwright_needs_command" -f -a "serve" -d 'Export a disk over NBD without writing it'
complete -c bootwright -n "__fish_bootwright_needs_command" -f -a "convert" -d 'Turn KubeVirt\'s manifests into Bootwright\'s'
complete -c bootwright -n "__fish_bootwright_needs_command" -f -a "cache" -d 'Look after the store of layers'
complete -c bootwright -n "__fish_bootwright_needs_command" -f -a "completion" -d 'Print a completion script for a shell'
complete -c bootwright -n "__fish_bootwright_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c bootwright -n "__fish_bootwright_using_subcommand build" -s o -l output -d 'Write the disk to FILE or block device, or to standard output with -' -r -F
complete -c bootwright -n "__fish_bootwright_using_subcommand build" -s f -l format -d 'Disk format [default: by the output\'s extension, else raw]' -r -f -a "raw\t'the bytes of the disk, sparse'
qcow2\t'QEMU, KVM and OpenStack; can be compressed'
vmdk\t'VMware and VirtualBox: stream-optimised, compressed with zlib'
vhd\t'Hyper-V of the first generation, XenServer: dynamic'
vhd-fixed\t'Azure: fixed, the bytes of the disk and a footer'
vhdx\t'Hyper-V'
gce\t'Google Compute Engine: disk.raw in a tar.gz; whole GiB'"
complete -c bootwright -n "__fish_bootwright_using_subcommand build" -l compress -d 'Compress the disk\'s contents [default: as the format must]' -r -f -a "none\t'Not compressed'
zlib\t'deflate; what vmdk and gce always have, and every reader of qcow2 knows'
zstd\t'zstd; smaller and much quicker; qcow2 only, needs QEMU 5.1'"
complete -c bootwright -n "__fish_bootwright_using_subcommand build" -l size -d 'Size of the disk [default: content and --free]' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand build" -l free -d 'Free space to leave in the root file system [default: 1G]' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand build" -l boot -d 'How the firmware finds the kernel [default: auto]' -r -f -a "auto\t'By what the image carries'
uki\t'A unified kernel image; needs a stub'
bls\t'systemd-boot and a boot loader entry'
none\t'No boot loader; boots with bootwright\'s launcher only'"
complete -c bootwright -n "__fish_bootwright_using_subcommand build" -l karg -d 'Add to the kernel command line (repeatable)' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand build" -l karg-delete -d 'Take an argument of the image or the defaults off the kernel command line (repeatable)' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand build" -l stub -d 'UKI stub to use instead of the image\'s' -r -F
complete -c bootwright -n "__fish_bootwright_using_subcommand build" -l loader -d 'Boot loader (EFI binary) to use instead of the image\'s systemd-boot' -r -F
complete -c bootwright -n "__fish_bootwright_using_subcommand build" -l esp-size -d 'Size of the EFI system partition [default: 512M, or more if its files need it]' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand build" -l hostname -d 'Set the host name' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand build" -l ssh-key -d 'Let the public key in FILE log in: as the --user, or else as root (repeatable)' -r -F
complete -c bootwright -n "__fish_bootwright_using_subcommand build" -l user -d 'Add a user who may use sudo (repeatable)' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand build" -l root-password-file -d 'Set root\'s password to the first line of FILE: plain, or a crypt(5) hash' -r -F
complete -c bootwright -n "__fish_bootwright_using_subcommand build" -l file -d 'Copy a file or directory of the host into the image (repeatable)' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand build" -l platform -d 'Take the image for this platform from a multi-platform image [default: the host\'s]' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand build" -l max-entries -d 'Refuse images with more entries in their layers than this' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand build" -l max-layer-size -d 'Refuse layers that unpack to more than this' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand build" -l max-index-size -d 'Refuse layers whose list of entries takes more memory than this' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand build" -l tls-verify -d 'Require HTTPS and verify certificates; =false also allows plain HTTP' -r -f -a "true\t''
false\t''"
complete -c bootwright -n "__fish_bootwright_using_subcommand build" -l cert-dir -d 'Use the certificates in DIR: *.crt to trust, *.cert with *.key to show' -r -f -a "(__fish_complete_directories)"
complete -c bootwright -n "__fish_bootwright_using_subcommand build" -l authfile -d 'Read registry credentials from FILE [default: those of podman, then docker]' -r -F
complete -c bootwright -n "__fish_bootwright_using_subcommand build" -l creds -d 'Credentials for the registry' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand build" -l parallel -d 'How many layers to fetch or send at once' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand build" -l retries -d 'How often to try again after a network error or when the registry is busy' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand build" -l store -d 'Keep layers in DIR [default: $XDG_CACHE_HOME/bootwright or ~/.cache/bootwright]' -r -f -a "(__fish_complete_directories)"
complete -c bootwright -n "__fish_bootwright_using_subcommand build" -l force -d 'Replace an existing output'
complete -c bootwright -n "__fish_bootwright_using_subcommand build" -l no-sync -d 'Do not wait until the disk is on stable storage; quicker, not for crashes of the machine'
complete -c bootwright -n "__fish_bootwright_using_subcommand build" -l json -d 'Print the result as JSON on standard output'
complete -c bootwright -n "__fish_bootwright_using_subcommand build" -s q -l quiet -d 'Print nothing but errors and the result'
complete -c bootwright -n "__fish_bootwright_using_subcommand build" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c bootwright -n "__fish_bootwright_using_subcommand build" -s V -l version -d 'Print version'
complete -c bootwright -n "__fish_bootwright_using_subcommand run" -l name -d 'Keep what the guest writes under NAME, and go on from it the next time' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand run" -l accel -d 'What runs the guest' -r -f -a "auto\t'kvm if this host can, else tcg'
kvm\t'Hardware virtualisation'
tcg\t'Emulation by QEMU, which is many times slower'"
complete -c bootwright -n "__fish_bootwright_using_subcommand run" -l cpus -d 'Number of processors' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand run" -l max-cpus -d 'Number of processors that `resize` can give it [default: those of this host]' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand run" -s m -l memory -d 'Memory' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand run" -l max-memory -d 'Memory that `resize` can give it [default: that of this host]' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand run" -l disk -d 'Attach a disk file, which is written to unless :ro follows (repeatable)' -r -F
complete -c bootwright -n "__fish_bootwright_using_subcommand run" -l backing -d 'Let a qcow2 lie over the backing file FILE, which is only read (repeatable)' -r -F
complete -c bootwright -n "__fish_bootwright_using_subcommand run" -l timeout -d 'End the machine after this time, or with --wait if it has not booted by then (s, m, h, d, w)' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand run" -l kernel -d 'Boot this kernel instead of the one in the image or on the disk' -r -F
complete -c bootwright -n "__fish_bootwright_using_subcommand run" -l initrd -d 'Boot with this initial RAM disk instead of the kernel\'s own' -r -F
complete -c bootwright -n "__fish_bootwright_using_subcommand run" -l append -d 'Kernel command line to use instead of the image\'s or the disk\'s' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand run" -l karg -d 'Add to the kernel command line (repeatable)' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand run" -l size -d 'Size of the root disk [default: content and --free, or as large as DISK]' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand run" -l free -d 'Free space in the root file system that is made of an image [default: 8G]' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand run" -l user -d 'Add a user who may use sudo to the image (repeatable)' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand run" -l root-password-file -d 'Set root\'s password to the first line of FILE: plain, or a crypt(5) hash' -r -F
complete -c bootwright -n "__fish_bootwright_using_subcommand run" -l file -d 'Copy a file or directory of the host into the image (repeatable)' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand run" -l platform -d 'Take the image for this platform from a multi-platform image [default: the host\'s]' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand run" -l max-entries -d 'Refuse images with more entries in their layers than this' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand run" -l max-layer-size -d 'Refuse layers that unpack to more than this' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand run" -l max-index-size -d 'Refuse layers whose list of entries takes more memory than this' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand run" -l tls-verify -d 'Require HTTPS and verify certificates; =false also allows plain HTTP' -r -f -a "true\t''
false\t''"
complete -c bootwright -n "__fish_bootwright_using_subcommand run" -l cert-dir -d 'Use the certificates in DIR: *.crt to trust, *.cert with *.key to show' -r -f -a "(__fish_complete_directories)"
complete -c bootwright -n "__fish_bootwright_using_subcommand run" -l authfile -d 'Read registry credentials from FILE [default: those of podman, then docker]' -r -F
complete -c bootwright -n "__fish_bootwright_using_subcommand run" -l creds -d 'Credentials for the registry' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand run" -l parallel -d 'How many layers to fetch or send at once' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand run" -l retries -d 'How often to try again after a network error or when the registry is busy' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand run" -l store -d 'Keep layers in DIR [default: $XDG_CACHE_HOME/bootwright or ~/.cache/bootwright]' -r -f -a "(__fish_complete_directories)"
complete -c bootwright -n "__fish_bootwright_using_subcommand run" -l network -d 'Where the network interface leads: user (through passt), tap:NAME or none [default: user]' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand run" -s p -l publish -d 'Lead a port of this host to one of the guest (repeatable)' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand run" -l hostname -d 'Host name of the guest' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand run" -l ssh-key -d 'Let the public keys in FILE log in as root (repeatable)' -r -F
complete -c bootwright -n "__fish_bootwright_using_subcommand run" -l credential -d 'Pass a systemd credential (repeatable)' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand run" -l smbios -d 'Pass an SMBIOS string of type 11 (repeatable)' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand run" -l cloud-init -d 'Pass FILE as user data to cloud-init' -r -F
complete -c bootwright -n "__fish_bootwright_using_subcommand run" -l huge-pages -d 'Take the memory from the host\'s huge pages of 2 MiB; its size is fixed then'
complete -c bootwright -n "__fish_bootwright_using_subcommand run" -l no-reboot -d 'End when the guest reboots'
complete -c bootwright -n "__fish_bootwright_using_subcommand run" -l no-sandbox -d 'Do not confine the process that runs the guest; for debugging only'
complete -c bootwright -n "__fish_bootwright_using_subcommand run" -s d -l detach -d 'Print the machine\'s name and go; it runs on'
complete -c bootwright -n "__fish_bootwright_using_subcommand run" -l wait -d 'With --detach, go when the guest has booted, and say how long it took'
complete -c bootwright -n "__fish_bootwright_using_subcommand run" -l paused -d 'Have the guest wait before its first instruction, until `resume` lets it go on'
complete -c bootwright -n "__fish_bootwright_using_subcommand run" -l console -d 'Show the guest\'s console, which is the default; with --detach, until Ctrl-] leaves it'
complete -c bootwright -n "__fish_bootwright_using_subcommand run" -l ssh -d 'Open a shell in the guest instead of its console, and end it afterwards'
complete -c bootwright -n "__fish_bootwright_using_subcommand run" -l json -d 'With --detach, print the machine as JSON on standard output'
complete -c bootwright -n "__fish_bootwright_using_subcommand run" -s q -l quiet -d 'Print nothing but errors and the console'
complete -c bootwright -n "__fish_bootwright_using_subcommand run" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c bootwright -n "__fish_bootwright_using_subcommand run" -s V -l version -d 'Print version'
complete -c bootwright -n "__fish_bootwright_using_subcommand ps" -s a -l all -d 'Show machines that do not run, too'
complete -c bootwright -n "__fish_bootwright_using_subcommand ps" -l json -d 'Print them as JSON on standard output'
complete -c bootwright -n "__fish_bootwright_using_subcommand ps" -s h -l help -d 'Print help'
complete -c bootwright -n "__fish_bootwright_using_subcommand ps" -s V -l version -d 'Print version'
complete -c bootwright -n "__fish_bootwright_using_subcommand ssh" -s h -l help -d 'Print help'
complete -c bootwright -n "__fish_bootwright_using_subcommand ssh" -s V -l version -d 'Print version'
complete -c bootwright -n "__fish_bootwright_using_subcommand cp" -s r -l recursive -d 'Copy folders with all that is in them'
complete -c bootwright -n "__fish_bootwright_using_subcommand cp" -s h -l help -d 'Print help'
complete -c bootwright -n "__fish_bootwright_using_subcommand cp" -s V -l version -d 'Print version'
complete -c bootwright -n "__fish_bootwright_using_subcommand console" -l json -d 'Print the result as JSON on standard output'
complete -c bootwright -n "__fish_bootwright_using_subcommand console" -s h -l help -d 'Print help'
complete -c bootwright -n "__fish_bootwright_using_subcommand console" -s V -l version -d 'Print version'
complete -c bootwright -n "__fish_bootwright_using_subcommand logs" -s f -l follow -d 'Go on as more comes, until the machine ends'
complete -c bootwright -n "__fish_bootwright_using_subcommand logs" -l machine -d 'Show the log of the machine\'s process instead of the console'
complete -c bootwright -n "__fish_bootwright_using_subcommand logs" -s h -l help -d 'Print help'
complete -c bootwright -n "__fish_bootwright_using_subcommand logs" -s V -l version -d 'Print version'
complete -c bootwright -n "__fish_bootwright_using_subcommand stop" -s t -l time -d 'How long the guest may take after the power button was pressed (s, m, h)' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand stop" -l json -d 'Print the result as JSON on standard output'
complete -c bootwright -n "__fish_bootwright_using_subcommand stop" -s h -l help -d 'Print help'
complete -c bootwright -n "__fish_bootwright_using_subcommand stop" -s V -l version -d 'Print version'
complete -c bootwright -n "__fish_bootwright_using_subcommand restart" -s t -l time -d 'How long the guest may take after the power button was pressed (s, m, h)' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand restart" -l json -d 'Print the result as JSON on standard output'
complete -c bootwright -n "__fish_bootwright_using_subcommand restart" -s h -l help -d 'Print help'
complete -c bootwright -n "__fish_bootwright_using_subcommand restart" -s V -l version -d 'Print version'
complete -c bootwright -n "__fish_bootwright_using_subcommand pause" -l json -d 'Print the result as JSON on standard output'
complete -c bootwright -n "__fish_bootwright_using_subcommand pause" -s h -l help -d 'Print help'
complete -c bootwright -n "__fish_bootwright_using_subcommand pause" -s V -l version -d 'Print version'
complete -c bootwright -n "__fish_bootwright_using_subcommand resume" -l json -d 'Print the result as JSON on standard output'
complete -c bootwright -n "__fish_bootwright_using_subcommand resume" -s h -l help -d 'Print help'
complete -c bootwright -n "__fish_bootwright_using_subcommand resume" -s V -l version -d 'Print version'
complete -c bootwright -n "__fish_bootwright_using_subcommand resize" -l cpus -d 'Number of processors, up to run\'s --max-cpus' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand resize" -s m -l memory -d 'Memory, up to run\'s --max-memory' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand resize" -l json -d 'Print the result as JSON on standard output'
complete -c bootwright -n "__fish_bootwright_using_subcommand resize" -s h -l help -d 'Print help'
complete -c bootwright -n "__fish_bootwright_using_subcommand resize" -s V -l version -d 'Print version'
complete -c bootwright -n "__fish_bootwright_using_subcommand rm" -s f -l force -d 'End those that run'
complete -c bootwright -n "__fish_bootwright_using_subcommand rm" -l json -d 'Print the result as JSON on standard output'
complete -c bootwright -n "__fish_bootwright_using_subcommand rm" -s h -l help -d 'Print help'
complete -c bootwright -n "__fish_bootwright_using_subcommand rm" -s V -l version -d 'Print version'
complete -c bootwright -n "__fish_bootwright_using_subcommand ssh-proxy" -l port -d 'Another TCP port of the guest\'s' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand ssh-proxy" -s h -l help -d 'Print help'
complete -c bootwright -n "__fish_bootwright_using_subcommand ssh-proxy" -s V -l version -d 'Print version'
complete -c bootwright -n "__fish_bootwright_using_subcommand console-proxy" -s h -l help -d 'Print help'
complete -c bootwright -n "__fish_bootwright_using_subcommand console-proxy" -s V -l version -d 'Print version'
complete -c bootwright -n "__fish_bootwright_using_subcommand machine" -s h -l help -d 'Print help'
complete -c bootwright -n "__fish_bootwright_using_subcommand machine" -s V -l version -d 'Print version'
complete -c bootwright -n "__fish_bootwright_using_subcommand launch" -l termination-log -d 'Say in FILE, if there is one, why the machine ended' -r -F
complete -c bootwright -n "__fish_bootwright_using_subcommand launch" -l platform -d 'Take the image for this platform from a multi-platform image [default: the host\'s]' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand launch" -l max-entries -d 'Refuse images with more entries in their layers than this' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand launch" -l max-layer-size -d 'Refuse layers that unpack to more than this' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand launch" -l max-index-size -d 'Refuse layers whose list of entries takes more memory than this' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand launch" -l tls-verify -d 'Require HTTPS and verify certificates; =false also allows plain HTTP' -r -f -a "true\t''
false\t''"
complete -c bootwright -n "__fish_bootwright_using_subcommand launch" -l cert-dir -d 'Use the certificates in DIR: *.crt to trust, *.cert with *.key to show' -r -f -a "(__fish_complete_directories)"
complete -c bootwright -n "__fish_bootwright_using_subcommand launch" -l authfile -d 'Read registry credentials from FILE [default: those of podman, then docker]' -r -F
complete -c bootwright -n "__fish_bootwright_using_subcommand launch" -l creds -d 'Credentials for the registry' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand launch" -l parallel -d 'How many layers to fetch or send at once' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand launch" -l retries -d 'How often to try again after a network error or when the registry is busy' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand launch" -l store -d 'Keep layers in DIR [default: $XDG_CACHE_HOME/bootwright or ~/.cache/bootwright]' -r -f -a "(__fish_complete_directories)"
complete -c bootwright -n "__fish_bootwright_using_subcommand launch" -s h -l help -d 'Print help'
complete -c bootwright -n "__fish_bootwright_using_subcommand launch" -s V -l version -d 'Print version'
complete -c bootwright -n "__fish_bootwright_using_subcommand probe" -l exec -d 'Have the guest run the command of this probe of its machine, and print what that prints last' -r -f -a "liveness\t'The liveness probe'
readiness\t'The readiness probe'"
complete -c bootwright -n "__fish_bootwright_using_subcommand probe" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c bootwright -n "__fish_bootwright_using_subcommand probe" -s V -l version -d 'Print version'
complete -c bootwright -n "__fish_bootwright_using_subcommand node" -l devices -d 'How many virtual machines of the node can have the device at once' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand node" -l device -d 'The device that is handed out' -r -F
complete -c bootwright -n "__fish_bootwright_using_subcommand node" -l resource -d 'The resource\'s name' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand node" -l plugins -d 'The kubelet\'s folder for plugins' -r -f -a "(__fish_complete_directories)"
complete -c bootwright -n "__fish_bootwright_using_subcommand node" -s h -l help -d 'Print help'
complete -c bootwright -n "__fish_bootwright_using_subcommand node" -s V -l version -d 'Print version'
complete -c bootwright -n "__fish_bootwright_using_subcommand become-passt" -s h -l help -d 'Print help'
complete -c bootwright -n "__fish_bootwright_using_subcommand become-passt" -s V -l version -d 'Print version'
complete -c bootwright -n "__fish_bootwright_using_subcommand inspect" -l platform -d 'Take the image for this platform from a multi-platform image [default: the host\'s]' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand inspect" -l max-entries -d 'Refuse images with more entries in their layers than this' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand inspect" -l max-layer-size -d 'Refuse layers that unpack to more than this' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand inspect" -l max-index-size -d 'Refuse layers whose list of entries takes more memory than this' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand inspect" -l tls-verify -d 'Require HTTPS and verify certificates; =false also allows plain HTTP' -r -f -a "true\t''
false\t''"
complete -c bootwright -n "__fish_bootwright_using_subcommand inspect" -l cert-dir -d 'Use the certificates in DIR: *.crt to trust, *.cert with *.key to show' -r -f -a "(__fish_complete_directories)"
complete -c bootwright -n "__fish_bootwright_using_subcommand inspect" -l authfile -d 'Read registry credentials from FILE [default: those of podman, then docker]' -r -F
complete -c bootwright -n "__fish_bootwright_using_subcommand inspect" -l creds -d 'Credentials for the registry' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand inspect" -l parallel -d 'How many layers to fetch or send at once' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand inspect" -l retries -d 'How often to try again after a network error or when the registry is busy' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand inspect" -l store -d 'Keep layers in DIR [default: $XDG_CACHE_HOME/bootwright or ~/.cache/bootwright]' -r -f -a "(__fish_complete_directories)"
complete -c bootwright -n "__fish_bootwright_using_subcommand inspect" -l json -d 'Print the result as JSON on standard output'
complete -c bootwright -n "__fish_bootwright_using_subcommand inspect" -s q -l quiet -d 'Print nothing but errors and the result'
complete -c bootwright -n "__fish_bootwright_using_subcommand inspect" -s h -l help -d 'Print help'
complete -c bootwright -n "__fish_bootwright_using_subcommand inspect" -s V -l version -d 'Print version'
complete -c bootwright -n "__fish_bootwright_using_subcommand push" -l as -d 'What the disk becomes in the registry' -r -f -a "disk\t'The image\'s layers and one with the disk\'s plan: only what changed travels'
containerdisk\t'An image with the disk as its one file, as KubeVirt runs it'
artifact\t'A KubeVirt VirtualMachine with the raw disk, to be imported (VEP 256)'"
complete -c bootwright -n "__fish_bootwright_using_subcommand push" -l compression -d 'How layers are compressed [default: zstd]' -r -f -a "zstd\t'zstd'
gzip\t'gzip; containerDisks only, for what reads nothing else'"
complete -c bootwright -n "__fish_bootwright_using_subcommand push" -l compression-level -d 'How hard to compress: 1 to 19 for zstd, 1 to 9 for gzip [default: 3 and 6]' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand push" -l digest-file -d 'Write the digest of what was pushed to FILE' -r -F
complete -c bootwright -n "__fish_bootwright_using_subcommand push" -l mount-from -d 'Take blobs that the repository NAME of the same registry has from there (repeatable)' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand push" -l format -d 'Format of the file in a containerDisk: qcow2 or raw [default: qcow2]' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand push" -l instancetype -d 'Name the KubeVirt instance type that suits the disk' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand push" -l preference -d 'Name the KubeVirt preference that suits the disk' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand push" -l src-tls-verify -d 'As --tls-verify, for the registry of IMAGE if that is another one' -r -f -a "true\t''
false\t''"
complete -c bootwright -n "__fish_bootwright_using_subcommand push" -l src-cert-dir -d 'As --cert-dir, for the registry of IMAGE if that is another one' -r -f -a "(__fish_complete_directories)"
complete -c bootwright -n "__fish_bootwright_using_subcommand push" -l src-creds -d 'As --creds, for the registry of IMAGE if that is another one' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand push" -l size -d 'Size of the disk [default: content and --free]' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand push" -l free -d 'Free space to leave in the root file system [default: 1G]' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand push" -l boot -d 'How the firmware finds the kernel [default: auto]' -r -f -a "auto\t'By what the image carries'
uki\t'A unified kernel image; needs a stub'
bls\t'systemd-boot and a boot loader entry'
none\t'No boot loader; boots with bootwright\'s launcher only'"
complete -c bootwright -n "__fish_bootwright_using_subcommand push" -l karg -d 'Add to the kernel command line (repeatable)' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand push" -l karg-delete -d 'Take an argument of the image or the defaults off the kernel command line (repeatable)' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand push" -l stub -d 'UKI stub to use instead of the image\'s' -r -F
complete -c bootwright -n "__fish_bootwright_using_subcommand push" -l loader -d 'Boot loader (EFI binary) to use instead of the image\'s systemd-boot' -r -F
complete -c bootwright -n "__fish_bootwright_using_subcommand push" -l esp-size -d 'Size of the EFI system partition [default: 512M, or more if its files need it]' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand push" -l hostname -d 'Set the host name' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand push" -l ssh-key -d 'Let the public key in FILE log in: as the --user, or else as root (repeatable)' -r -F
complete -c bootwright -n "__fish_bootwright_using_subcommand push" -l user -d 'Add a user who may use sudo (repeatable)' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand push" -l root-password-file -d 'Set root\'s password to the first line of FILE: plain, or a crypt(5) hash' -r -F
complete -c bootwright -n "__fish_bootwright_using_subcommand push" -l file -d 'Copy a file or directory of the host into the image (repeatable)' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand push" -l platform -d 'Take the image for this platform from a multi-platform image [default: the host\'s]' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand push" -l max-entries -d 'Refuse images with more entries in their layers than this' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand push" -l max-layer-size -d 'Refuse layers that unpack to more than this' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand push" -l max-index-size -d 'Refuse layers whose list of entries takes more memory than this' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand push" -l tls-verify -d 'Require HTTPS and verify certificates; =false also allows plain HTTP' -r -f -a "true\t''
false\t''"
complete -c bootwright -n "__fish_bootwright_using_subcommand push" -l cert-dir -d 'Use the certificates in DIR: *.crt to trust, *.cert with *.key to show' -r -f -a "(__fish_complete_directories)"
complete -c bootwright -n "__fish_bootwright_using_subcommand push" -l authfile -d 'Read registry credentials from FILE [default: those of podman, then docker]' -r -F
complete -c bootwright -n "__fish_bootwright_using_subcommand push" -l creds -d 'Credentials for the registry' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand push" -l parallel -d 'How many layers to fetch or send at once' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand push" -l retries -d 'How often to try again after a network error or when the registry is busy' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand push" -l store -d 'Keep layers in DIR [default: $XDG_CACHE_HOME/bootwright or ~/.cache/bootwright]' -r -f -a "(__fish_complete_directories)"
complete -c bootwright -n "__fish_bootwright_using_subcommand push" -l refer -d 'Make the artifact a referrer of IMAGE, which is in the same repository'
complete -c bootwright -n "__fish_bootwright_using_subcommand push" -l json -d 'Print the result as JSON on standard output'
complete -c bootwright -n "__fish_bootwright_using_subcommand push" -s q -l quiet -d 'Print nothing but errors and the result'
complete -c bootwright -n "__fish_bootwright_using_subcommand push" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c bootwright -n "__fish_bootwright_using_subcommand push" -s V -l version -d 'Print version'
complete -c bootwright -n "__fish_bootwright_using_subcommand verify" -l size -d 'Size of the disk [default: content and --free]' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand verify" -l free -d 'Free space to leave in the root file system [default: 1G]' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand verify" -l boot -d 'How the firmware finds the kernel [default: auto]' -r -f -a "auto\t'By what the image carries'
uki\t'A unified kernel image; needs a stub'
bls\t'systemd-boot and a boot loader entry'
none\t'No boot loader; boots with bootwright\'s launcher only'"
complete -c bootwright -n "__fish_bootwright_using_subcommand verify" -l karg -d 'Add to the kernel command line (repeatable)' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand verify" -l karg-delete -d 'Take an argument of the image or the defaults off the kernel command line (repeatable)' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand verify" -l stub -d 'UKI stub to use instead of the image\'s' -r -F
complete -c bootwright -n "__fish_bootwright_using_subcommand verify" -l loader -d 'Boot loader (EFI binary) to use instead of the image\'s systemd-boot' -r -F
complete -c bootwright -n "__fish_bootwright_using_subcommand verify" -l esp-size -d 'Size of the EFI system partition [default: 512M, or more if its files need it]' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand verify" -l hostname -d 'Set the host name' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand verify" -l ssh-key -d 'Let the public key in FILE log in: as the --user, or else as root (repeatable)' -r -F
complete -c bootwright -n "__fish_bootwright_using_subcommand verify" -l user -d 'Add a user who may use sudo (repeatable)' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand verify" -l root-password-file -d 'Set root\'s password to the first line of FILE: plain, or a crypt(5) hash' -r -F
complete -c bootwright -n "__fish_bootwright_using_subcommand verify" -l file -d 'Copy a file or directory of the host into the image (repeatable)' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand verify" -l platform -d 'Take the image for this platform from a multi-platform image [default: the host\'s]' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand verify" -l max-entries -d 'Refuse images with more entries in their layers than this' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand verify" -l max-layer-size -d 'Refuse layers that unpack to more than this' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand verify" -l max-index-size -d 'Refuse layers whose list of entries takes more memory than this' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand verify" -l tls-verify -d 'Require HTTPS and verify certificates; =false also allows plain HTTP' -r -f -a "true\t''
false\t''"
complete -c bootwright -n "__fish_bootwright_using_subcommand verify" -l cert-dir -d 'Use the certificates in DIR: *.crt to trust, *.cert with *.key to show' -r -f -a "(__fish_complete_directories)"
complete -c bootwright -n "__fish_bootwright_using_subcommand verify" -l authfile -d 'Read registry credentials from FILE [default: those of podman, then docker]' -r -F
complete -c bootwright -n "__fish_bootwright_using_subcommand verify" -l creds -d 'Credentials for the registry' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand verify" -l parallel -d 'How many layers to fetch or send at once' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand verify" -l retries -d 'How often to try again after a network error or when the registry is busy' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand verify" -l store -d 'Keep layers in DIR [default: $XDG_CACHE_HOME/bootwright or ~/.cache/bootwright]' -r -f -a "(__fish_complete_directories)"
complete -c bootwright -n "__fish_bootwright_using_subcommand verify" -l json -d 'Print the result as JSON on standard output'
complete -c bootwright -n "__fish_bootwright_using_subcommand verify" -s q -l quiet -d 'Print nothing but errors and the result'
complete -c bootwright -n "__fish_bootwright_using_subcommand verify" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c bootwright -n "__fish_bootwright_using_subcommand verify" -s V -l version -d 'Print version'
complete -c bootwright -n "__fish_bootwright_using_subcommand serve" -l nbd -d 'Serve over NBD at this unix socket, read-only, to programs of the same user' -r -F
complete -c bootwright -n "__fish_bootwright_using_subcommand serve" -l size -d 'Size of the disk [default: content and --free]' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand serve" -l free -d 'Free space to leave in the root file system [default: 1G]' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand serve" -l boot -d 'How the firmware finds the kernel [default: auto]' -r -f -a "auto\t'By what the image carries'
uki\t'A unified kernel image; needs a stub'
bls\t'systemd-boot and a boot loader entry'
none\t'No boot loader; boots with bootwright\'s launcher only'"
complete -c bootwright -n "__fish_bootwright_using_subcommand serve" -l karg -d 'Add to the kernel command line (repeatable)' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand serve" -l karg-delete -d 'Take an argument of the image or the defaults off the kernel command line (repeatable)' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand serve" -l stub -d 'UKI stub to use instead of the image\'s' -r -F
complete -c bootwright -n "__fish_bootwright_using_subcommand serve" -l loader -d 'Boot loader (EFI binary) to use instead of the image\'s systemd-boot' -r -F
complete -c bootwright -n "__fish_bootwright_using_subcommand serve" -l esp-size -d 'Size of the EFI system partition [default: 512M, or more if its files need it]' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand serve" -l hostname -d 'Set the host name' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand serve" -l ssh-key -d 'Let the public key in FILE log in: as the --user, or else as root (repeatable)' -r -F
complete -c bootwright -n "__fish_bootwright_using_subcommand serve" -l user -d 'Add a user who may use sudo (repeatable)' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand serve" -l root-password-file -d 'Set root\'s password to the first line of FILE: plain, or a crypt(5) hash' -r -F
complete -c bootwright -n "__fish_bootwright_using_subcommand serve" -l file -d 'Copy a file or directory of the host into the image (repeatable)' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand serve" -l platform -d 'Take the image for this platform from a multi-platform image [default: the host\'s]' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand serve" -l max-entries -d 'Refuse images with more entries in their layers than this' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand serve" -l max-layer-size -d 'Refuse layers that unpack to more than this' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand serve" -l max-index-size -d 'Refuse layers whose list of entries takes more memory than this' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand serve" -l tls-verify -d 'Require HTTPS and verify certificates; =false also allows plain HTTP' -r -f -a "true\t''
false\t''"
complete -c bootwright -n "__fish_bootwright_using_subcommand serve" -l cert-dir -d 'Use the certificates in DIR: *.crt to trust, *.cert with *.key to show' -r -f -a "(__fish_complete_directories)"
complete -c bootwright -n "__fish_bootwright_using_subcommand serve" -l authfile -d 'Read registry credentials from FILE [default: those of podman, then docker]' -r -F
complete -c bootwright -n "__fish_bootwright_using_subcommand serve" -l creds -d 'Credentials for the registry' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand serve" -l parallel -d 'How many layers to fetch or send at once' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand serve" -l retries -d 'How often to try again after a network error or when the registry is busy' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand serve" -l store -d 'Keep layers in DIR [default: $XDG_CACHE_HOME/bootwright or ~/.cache/bootwright]' -r -f -a "(__fish_complete_directories)"
complete -c bootwright -n "__fish_bootwright_using_subcommand serve" -l json -d 'Print the result as JSON on standard output'
complete -c bootwright -n "__fish_bootwright_using_subcommand serve" -s q -l quiet -d 'Print nothing but errors and the result'
complete -c bootwright -n "__fish_bootwright_using_subcommand serve" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c bootwright -n "__fish_bootwright_using_subcommand serve" -s V -l version -d 'Print version'
complete -c bootwright -n "__fish_bootwright_using_subcommand convert" -s o -l output -d 'Write here and not to standard output' -r -F
complete -c bootwright -n "__fish_bootwright_using_subcommand convert" -l lossy -d 'Write what is left of objects that lose something'
complete -c bootwright -n "__fish_bootwright_using_subcommand convert" -l json -d 'Print the result as JSON on standard output'
complete -c bootwright -n "__fish_bootwright_using_subcommand convert" -s q -l quiet -d 'Print nothing but errors and the result'
complete -c bootwright -n "__fish_bootwright_using_subcommand convert" -s h -l help -d 'Print help'
complete -c bootwright -n "__fish_bootwright_using_subcommand convert" -s V -l version -d 'Print version'
complete -c bootwright -n "__fish_bootwright_using_subcommand cache; and not __fish_seen_subcommand_from ls list prune verify help" -s h -l help -d 'Print help'
complete -c bootwright -n "__fish_bootwright_using_subcommand cache; and not __fish_seen_subcommand_from ls list prune verify help" -s V -l version -d 'Print version'
complete -c bootwright -n "__fish_bootwright_using_subcommand cache; and not __fish_seen_subcommand_from ls list prune verify help" -f -a "ls" -d 'List the layers in the store'
complete -c bootwright -n "__fish_bootwright_using_subcommand cache; and not __fish_seen_subcommand_from ls list prune verify help" -f -a "list" -d 'List the layers in the store'
complete -c bootwright -n "__fish_bootwright_using_subcommand cache; and not __fish_seen_subcommand_from ls list prune verify help" -f -a "prune" -d 'Remove layers from the store'
complete -c bootwright -n "__fish_bootwright_using_subcommand cache; and not __fish_seen_subcommand_from ls list prune verify help" -f -a "verify" -d 'Read every layer in the store and check it against its sums'
complete -c bootwright -n "__fish_bootwright_using_subcommand cache; and not __fish_seen_subcommand_from ls list prune verify help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c bootwright -n "__fish_bootwright_using_subcommand cache; and __fish_seen_subcommand_from ls" -l store -d 'Keep layers in DIR [default: $XDG_CACHE_HOME/bootwright or ~/.cache/bootwright]' -r -f -a "(__fish_complete_directories)"
complete -c bootwright -n "__fish_bootwright_using_subcommand cache; and __fish_seen_subcommand_from ls" -l json -d 'Print the result as JSON on standard output'
complete -c bootwright -n "__fish_bootwright_using_subcommand cache; and __fish_seen_subcommand_from ls" -s q -l quiet -d 'Print nothing but errors and the result'
complete -c bootwright -n "__fish_bootwright_using_subcommand cache; and __fish_seen_subcommand_from ls" -s h -l help -d 'Print help'
complete -c bootwright -n "__fish_bootwright_using_subcommand cache; and __fish_seen_subcommand_from ls" -s V -l version -d 'Print version'
complete -c bootwright -n "__fish_bootwright_using_subcommand cache; and __fish_seen_subcommand_from list" -l store -d 'Keep layers in DIR [default: $XDG_CACHE_HOME/bootwright or ~/.cache/bootwright]' -r -f -a "(__fish_complete_directories)"
complete -c bootwright -n "__fish_bootwright_using_subcommand cache; and __fish_seen_subcommand_from list" -l json -d 'Print the result as JSON on standard output'
complete -c bootwright -n "__fish_bootwright_using_subcommand cache; and __fish_seen_subcommand_from list" -s q -l quiet -d 'Print nothing but errors and the result'
complete -c bootwright -n "__fish_bootwright_using_subcommand cache; and __fish_seen_subcommand_from list" -s h -l help -d 'Print help'
complete -c bootwright -n "__fish_bootwright_using_subcommand cache; and __fish_seen_subcommand_from list" -s V -l version -d 'Print version'
complete -c bootwright -n "__fish_bootwright_using_subcommand cache; and __fish_seen_subcommand_from prune" -l store -d 'Keep layers in DIR [default: $XDG_CACHE_HOME/bootwright or ~/.cache/bootwright]' -r -f -a "(__fish_complete_directories)"
complete -c bootwright -n "__fish_bootwright_using_subcommand cache; and __fish_seen_subcommand_from prune" -l older-than -d 'Remove only layers not used for this long (s, m, h, d, w)' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand cache; and __fish_seen_subcommand_from prune" -l keep -d 'Remove the least recently used layers until the store is no larger than this' -r
complete -c bootwright -n "__fish_bootwright_using_subcommand cache; and __fish_seen_subcommand_from prune" -l dry-run -d 'Say what would be removed, remove nothing'
complete -c bootwright -n "__fish_bootwright_using_subcommand cache; and __fish_seen_subcommand_from prune" -l json -d 'Print the result as JSON on standard output'
complete -c bootwright -n "__fish_bootwright_using_subcommand cache; and __fish_seen_subcommand_from prune" -s q -l quiet -d 'Print nothing but errors and the result'
complete -c bootwright -n "__fish_bootwright_using_subcommand cache; and __fish_seen_subcommand_from prune" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c bootwright -n "__fish_bootwright_using_subcommand cache; and __fish_seen_subcommand_from prune" -s V -l version -d 'Print version'
complete -c bootwright -n "__fish_bootwright_using_subcommand cache; and __fish_seen_subcommand_from verify" -l store -d 'Keep layers in DIR [default: $XDG_CACHE_HOME/bootwright or ~/.cache/bootwright]' -r -f -a "(__fish_complete_directories)"
complete -c bootwright -n "__fish_bootwright_using_subcommand cache; and __fish_seen_subcommand_from verify" -l json -d 'Print the result as JSON on standard output'
complete -c bootwright -n "__fish_bootwright_using_subcommand cache; and __fish_seen_subcommand_from verify" -s q -l quiet -d 'Print nothing but errors and the result'
complete -c bootwright -n "__fish_bootwright_using_subcommand cache; and __fish_seen_subcommand_from verify" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c bootwright -n "__fish_bootwright_using_subcommand cache; and __fish_seen_subcommand_from verify" -s V -l version -d 'Print version'
complete -c bootwright -n "__fish_bootwright_using_subcommand cache; and __fish_seen_subcommand_from help" -f -a "ls" -d 'List the layers in the store'
complete -c bootwright -n "__fish_bootwright_using_subcommand cache; and __fish_seen_subcommand_from help" -f -a "prune" -d 'Remove layers from the store'
complete -c bootwright -n "__fish_bootwright_using_subcommand cache; and __fish_seen_subcommand_from help" -f -a "verify" -d 'Read every layer in the store and check it against its sums'
complete -c bootwright -n "__fish_bootwright_using_subcommand cache; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c bootwright -n "__fish_bootwright_using_subcommand completion" -s h -l help -d 'Print help'
complete -c bootwright -n "__fish_bootwright_using_subcommand completion" -s V -l version -d 'Print version'
complete -c bootwright -n "__fish_bootwright_using_subcommand help; and not __fish_seen_subcommand_from build run ps ssh cp console logs stop restart pause resume resize rm ssh-proxy console-proxy machine launch probe node become-passt inspect push verify serve convert cache completion help" -f -a "build" -d 'Build a bootable disk from a container image'
complete -c bootwright -n "__fish_bootwright_using_subcommand help; and not __fish_seen_subcommand_from build run ps ssh cp console logs stop restart pause resume resize rm ssh-proxy console-proxy machine launch probe node become-passt inspect push verify serve convert cache completion help" -f -a "run" -d 'Boot an image or a disk in a virtual machine'
complete -c bootwright -n "__fish_bootwright_using_subcommand help; and not __fish_seen_subcommand_from build run ps ssh cp console logs stop restart pause resume resize rm ssh-proxy console-proxy machine launch probe node become-passt inspect push verify serve convert cache completion help" -f -a "ps" -d 'List machines'
complete -c bootwright -n "__fish_bootwright_using_subcommand help; and not __fish_seen_subcommand_from build run ps ssh cp console logs stop restart pause resume resize rm ssh-proxy console-proxy machine launch probe node become-passt inspect push verify serve convert cache completion help" -f -a "ssh" -d 'Open a shell or run a command in a machine'
complete -c bootwright -n "__fish_bootwright_using_subcommand help; and not __fish_seen_subcommand_from build run ps ssh cp console logs stop restart pause resume resize rm ssh-proxy console-proxy machine launch probe node become-passt inspect push verify serve convert cache completion help" -f -a "cp" -d 'Copy files to or from a machine'
complete -c bootwright -n "__fish_bootwright_using_subcommand help; and not __fish_seen_subcommand_from build run ps ssh cp console logs stop restart pause resume resize rm ssh-proxy console-proxy machine launch probe node become-passt inspect push verify serve convert cache completion help" -f -a "console" -d 'Connect to a machine\'s console'
complete -c bootwright -n "__fish_bootwright_using_subcommand help; and not __fish_seen_subcommand_from build run ps ssh cp console logs stop restart pause resume resize rm ssh-proxy console-proxy machine launch probe node become-passt inspect push verify serve convert cache completion help" -f -a "logs" -d 'Show what was on a machine\'s console'
complete -c bootwright -n "__fish_bootwright_using_subcommand help; and not __fish_seen_subcommand_from build run ps ssh cp console logs stop restart pause resume resize rm ssh-proxy console-proxy machine launch probe node become-passt inspect push verify serve convert cache completion help" -f -a "stop" -d 'Press a machine\'s power button, and end it if that does not help in time'
complete -c bootwright -n "__fish_bootwright_using_subcommand help; and not __fish_seen_subcommand_from build run ps ssh cp console logs stop restart pause resume resize rm ssh-proxy console-proxy machine launch probe node become-passt inspect push verify serve convert cache completion help" -f -a "restart" -d 'Stop a machine that is kept, and start it again'
complete -c bootwright -n "__fish_bootwright_using_subcommand help; and not __fish_seen_subcommand_from build run ps ssh cp console logs stop restart pause resume resize rm ssh-proxy console-proxy machine launch probe node become-passt inspect push verify serve convert cache completion help" -f -a "pause" -d 'Hold a machine'
complete -c bootwright -n "__fish_bootwright_using_subcommand help; and not __fish_seen_subcommand_from build run ps ssh cp console logs stop restart pause resume resize rm ssh-proxy console-proxy machine launch probe node become-passt inspect push verify serve convert cache completion help" -f -a "resume" -d 'Let a machine go on'
complete -c bootwright -n "__fish_bootwright_using_subcommand help; and not __fish_seen_subcommand_from build run ps ssh cp console logs stop restart pause resume resize rm ssh-proxy console-proxy machine launch probe node become-passt inspect push verify serve convert cache completion help" -f -a "resize" -d 'Change a running machine\'s processors and memory'
complete -c bootwright -n "__fish_bootwright_using_subcommand help; and not __fish_seen_subcommand_from build run ps ssh cp console logs stop restart pause resume resize rm ssh-proxy console-proxy machine launch probe node become-passt inspect push verify serve convert cache completion help" -f -a "rm" -d 'Remove machines and what they have written'
complete -c bootwright -n "__fish_bootwright_using_subcommand help; and not __fish_seen_subcommand_from build run ps ssh cp console logs stop restart pause resume resize rm ssh-proxy console-proxy machine launch probe node become-passt inspect push verify serve convert cache completion help" -f -a "ssh-proxy" -d 'Connect standard input and output to a machine\'s ssh server; `ssh` starts this'
complete -c bootwright -n "__fish_bootwright_using_subcommand help; and not __fish_seen_subcommand_from build run ps ssh cp console logs stop restart pause resume resize rm ssh-proxy console-proxy machine launch probe node become-passt inspect push verify serve convert cache completion help" -f -a "console-proxy" -d 'Connect standard input and output to a machine\'s console; `kubectl bootwright` starts this'
complete -c bootwright -n "__fish_bootwright_using_subcommand help; and not __fish_seen_subcommand_from build run ps ssh cp console logs stop restart pause resume resize rm ssh-proxy console-proxy machine launch probe node become-passt inspect push verify serve convert cache completion help" -f -a "machine" -d 'Run a virtual machine whose folder is prepared; `run` starts this'
complete -c bootwright -n "__fish_bootwright_using_subcommand help; and not __fish_seen_subcommand_from build run ps ssh cp console logs stop restart pause resume resize rm ssh-proxy console-proxy machine launch probe node become-passt inspect push verify serve convert cache completion help" -f -a "launch" -d 'Run the virtual machine of a Kubernetes pod'
complete -c bootwright -n "__fish_bootwright_using_subcommand help; and not __fish_seen_subcommand_from build run ps ssh cp console logs stop restart pause resume resize rm ssh-proxy console-proxy machine launch probe node become-passt inspect push verify serve convert cache completion help" -f -a "probe" -d 'Succeed if the guest of a pod has booted, or a probe\'s command succeeds in it'
complete -c bootwright -n "__fish_bootwright_using_subcommand help; and not __fish_seen_subcommand_from build run ps ssh cp console logs stop restart pause resume resize rm ssh-proxy console-proxy machine launch probe node become-passt inspect push verify serve convert cache completion help" -f -a "node" -d 'Offer /dev/kvm to the pods of a Kubernetes node'
complete -c bootwright -n "__fish_bootwright_using_subcommand help; and not __fish_seen_subcommand_from build run ps ssh cp console logs stop restart pause resume resize rm ssh-proxy console-proxy machine launch probe node become-passt inspect push verify serve convert cache completion help" -f -a "become-passt" -d 'Become passt in a container; `launch` starts this'
complete -c bootwright -n "__fish_bootwright_using_subcommand help; and not __fish_seen_subcommand_from build run ps ssh cp console logs stop restart pause resume resize rm ssh-proxy console-proxy machine launch probe node become-passt inspect push verify serve convert cache completion help" -f -a "inspect" -d 'Show what an image or a disk holds'
complete -c bootwright -n "__fish_bootwright_using_subcommand help; and not __fish_seen_subcommand_from build run ps ssh cp console logs stop restart pause resume resize rm ssh-proxy console-proxy machine launch probe node become-passt inspect push verify serve convert cache completion help" -f -a "push" -d 'Store a disk in a registry, as an image that shares its layers with others'
complete -c bootwright -n "__fish_bootwright_using_subcommand help; and not __fish_seen_subcommand_from build run ps ssh cp console logs stop restart pause resume resize rm ssh-proxy console-proxy machine launch probe node become-passt inspect push verify serve convert cache completion help" -f -a "verify" -d 'Compare a disk with the one that an image makes'
complete -c bootwright -n "__fish_bootwright_using_subcommand help; and not __fish_seen_subcommand_from build run ps ssh cp console logs stop restart pause resume resize rm ssh-proxy console-proxy machine launch probe node become-passt inspect push verify serve convert cache completion help" -f -a "serve" -d 'Export a disk over NBD without writing it'
complete -c bootwright -n "__fish_bootwright_using_subcommand help; and not __fish_seen_subcommand_from build run ps ssh cp console logs stop restart pause resume resize rm ssh-proxy console-proxy machine launch probe node become-passt inspect push verify serve convert cache completion help" -f -a "convert" -d 'Turn KubeVirt\'s manifests into Bootwright\'s'
complete -c bootwright -n "__fish_bootwright_using_subcommand help; and not __fish_seen_subcommand_from build run ps ssh cp console logs stop restart pause resume resize rm ssh-proxy console-proxy machine launch probe node become-passt inspect push verify serve convert cache completion help" -f -a "cache" -d 'Look after the store of layers'
complete -c bootwright -n "__fish_bootwright_using_subcommand help; and not __fish_seen_subcommand_from build run ps ssh cp console logs stop restart pause resume resize rm ssh-proxy console-proxy machine launch probe node become-passt inspect push verify serve convert cache completion help" -f -a "completion" -d 'Print a completion script for a shell'
complete -c bootwright -n "__fish_bootwright_using_subcommand help; and not __fish_seen_subcommand_from build run ps ssh cp console logs stop restart pause resume resize rm ssh-proxy console-proxy machine launch probe node become-passt inspect push verify serve convert cache completion help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c bootwright -n "__fish_bootwright_using_subcommand help; and __fish_seen_subcommand_from cache" -f -a "ls" -d 'List the layers in the store'
complete -c bootwright -n "__fish_bootwright_using_subcommand help; and __fish_seen_subcommand_from cache" -f -a "prune" -d 'Remove layers from the store'
complete -c bootwright -n "__fish_bootwright_using_subcommand help; and __fish_seen_subcommand_from cache" -f -a "verify" -d 'Read every layer in the store and check it against its sums'
