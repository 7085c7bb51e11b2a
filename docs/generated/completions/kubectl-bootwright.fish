# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_kubectl_bootwright_global_optspecs
    string join \n kubeconfig= context= cluster= user= n/namespace= as= as-group= request-timeout= h/help V/version
end

function __fish_kubectl_bootwright_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_kubectl_bootwright_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_kubectl_bootwright_using_subcommand
    set -l cmd (__fish_kubectl_bootwright_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_needs_command" -l kubeconfig -d 'Read FILE to find the cluster' -r -F
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_needs_command" -l context -d 'Use this context of it' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_needs_command" -l cluster -d 'Use this cluster of it' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_needs_command" -l user -d 'Use this user of it' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_needs_command" -s n -l namespace -d 'In this namespace' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_needs_command" -l as -d 'Act as this user' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_needs_command" -l as-group -d 'Act as a member of this group; may be given several times' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_needs_command" -l request-timeout -d 'How long the API server may take to answer (s, m); 0 is forever' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_needs_command" -s h -l help -d 'Print help'
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_needs_command" -s V -l version -d 'Print version'
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_needs_command" -f -a "start" -d 'Start machines'
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_needs_command" -f -a "stop" -d 'Stop machines'
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_needs_command" -f -a "restart" -d 'Stop machines that run, and start them again'
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_needs_command" -f -a "pause" -d 'Have guests stand still'
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_needs_command" -f -a "resume" -d 'Have guests go on that stand still'
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_needs_command" -f -a "resize" -d 'Change machines\' processors and memory, also while they run'
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_needs_command" -f -a "console" -d 'Connect to a machine\'s console'
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_needs_command" -f -a "ssh" -d 'Open a shell or run a command in a machine'
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_needs_command" -f -a "scp" -d 'Copy files to or from a machine'
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_needs_command" -f -a "port-forward" -d 'Have local ports lead to a machine\'s'
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_needs_command" -f -a "image" -d 'Change the image of a machine or a pool, or go back'
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_needs_command" -f -a "status" -d 'Show what machines and pools are doing'
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_needs_command" -f -a "completion" -d 'Print a completion script for a shell'
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_needs_command" -f -a "ssh-proxy" -d 'Connect standard input and output to a machine\'s ssh server; `ssh` starts this'
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_needs_command" -f -a "__complete" -d 'Say what may follow on the command line; kubectl_complete-bootwright starts this'
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand start" -s o -l output -d 'Print the objects as JSON, or their names only' -r -f -a "json\t'JSON'
name\t'Types and names'"
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand start" -l kubeconfig -d 'Read FILE to find the cluster' -r -F
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand start" -l context -d 'Use this context of it' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand start" -l cluster -d 'Use this cluster of it' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand start" -l user -d 'Use this user of it' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand start" -s n -l namespace -d 'In this namespace' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand start" -l as -d 'Act as this user' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand start" -l as-group -d 'Act as a member of this group; may be given several times' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand start" -l request-timeout -d 'How long the API server may take to answer (s, m); 0 is forever' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand start" -l dry-run -d 'Have the API server check the request, and do nothing'
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand start" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand start" -s V -l version -d 'Print version'
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand stop" -s o -l output -d 'Print the objects as JSON, or their names only' -r -f -a "json\t'JSON'
name\t'Types and names'"
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand stop" -l kubeconfig -d 'Read FILE to find the cluster' -r -F
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand stop" -l context -d 'Use this context of it' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand stop" -l cluster -d 'Use this cluster of it' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand stop" -l user -d 'Use this user of it' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand stop" -s n -l namespace -d 'In this namespace' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand stop" -l as -d 'Act as this user' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand stop" -l as-group -d 'Act as a member of this group; may be given several times' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand stop" -l request-timeout -d 'How long the API server may take to answer (s, m); 0 is forever' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand stop" -l dry-run -d 'Have the API server check the request, and do nothing'
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand stop" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand stop" -s V -l version -d 'Print version'
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand restart" -s o -l output -d 'Print the objects as JSON, or their names only' -r -f -a "json\t'JSON'
name\t'Types and names'"
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand restart" -l kubeconfig -d 'Read FILE to find the cluster' -r -F
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand restart" -l context -d 'Use this context of it' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand restart" -l cluster -d 'Use this cluster of it' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand restart" -l user -d 'Use this user of it' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand restart" -s n -l namespace -d 'In this namespace' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand restart" -l as -d 'Act as this user' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand restart" -l as-group -d 'Act as a member of this group; may be given several times' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand restart" -l request-timeout -d 'How long the API server may take to answer (s, m); 0 is forever' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand restart" -l dry-run -d 'Have the API server check the request, and do nothing'
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand restart" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand restart" -s V -l version -d 'Print version'
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand pause" -s o -l output -d 'Print the objects as JSON, or their names only' -r -f -a "json\t'JSON'
name\t'Types and names'"
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand pause" -l kubeconfig -d 'Read FILE to find the cluster' -r -F
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand pause" -l context -d 'Use this context of it' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand pause" -l cluster -d 'Use this cluster of it' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand pause" -l user -d 'Use this user of it' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand pause" -s n -l namespace -d 'In this namespace' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand pause" -l as -d 'Act as this user' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand pause" -l as-group -d 'Act as a member of this group; may be given several times' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand pause" -l request-timeout -d 'How long the API server may take to answer (s, m); 0 is forever' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand pause" -l dry-run -d 'Have the API server check the request, and do nothing'
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand pause" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand pause" -s V -l version -d 'Print version'
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand resume" -s o -l output -d 'Print the objects as JSON, or their names only' -r -f -a "json\t'JSON'
name\t'Types and names'"
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand resume" -l kubeconfig -d 'Read FILE to find the cluster' -r -F
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand resume" -l context -d 'Use this context of it' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand resume" -l cluster -d 'Use this cluster of it' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand resume" -l user -d 'Use this user of it' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand resume" -s n -l namespace -d 'In this namespace' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand resume" -l as -d 'Act as this user' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand resume" -l as-group -d 'Act as a member of this group; may be given several times' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand resume" -l request-timeout -d 'How long the API server may take to answer (s, m); 0 is forever' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand resume" -l dry-run -d 'Have the API server check the request, and do nothing'
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand resume" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand resume" -s V -l version -d 'Print version'
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand resize" -l cpus -d 'Number of processors, in whole sockets' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand resize" -s m -l memory -d 'Memory, as an amount such as 6Gi' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand resize" -s o -l output -d 'Print the objects as JSON, or their names only' -r -f -a "json\t'JSON'
name\t'Types and names'"
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand resize" -l kubeconfig -d 'Read FILE to find the cluster' -r -F
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand resize" -l context -d 'Use this context of it' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand resize" -l cluster -d 'Use this cluster of it' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand resize" -l user -d 'Use this user of it' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand resize" -s n -l namespace -d 'In this namespace' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand resize" -l as -d 'Act as this user' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand resize" -l as-group -d 'Act as a member of this group; may be given several times' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand resize" -l request-timeout -d 'How long the API server may take to answer (s, m); 0 is forever' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand resize" -l dry-run -d 'Have the API server check the change, and do nothing'
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand resize" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand resize" -s V -l version -d 'Print version'
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand console" -l kubeconfig -d 'Read FILE to find the cluster' -r -F
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand console" -l context -d 'Use this context of it' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand console" -l cluster -d 'Use this cluster of it' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand console" -l user -d 'Use this user of it' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand console" -s n -l namespace -d 'In this namespace' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand console" -l as -d 'Act as this user' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand console" -l as-group -d 'Act as a member of this group; may be given several times' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand console" -l request-timeout -d 'How long the API server may take to answer (s, m); 0 is forever' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand console" -s h -l help -d 'Print help'
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand console" -s V -l version -d 'Print version'
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand ssh" -s i -l identity-file -d 'Log in with this key' -r -F
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand ssh" -s l -l username -d 'Log in as this user; without it as OpenSSH does, by its configuration or as you' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand ssh" -s p -l port -d 'The guest\'s port, if it is not 22' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand ssh" -l known-hosts -d 'Keep the keys of guests in FILE' -r -F
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand ssh" -s t -l local-ssh-opts -d 'Pass on to OpenSSH; may be given several times' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand ssh" -s c -l command -d 'Command to run in the guest, as virtctl takes it' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand ssh" -l kubeconfig -d 'Read FILE to find the cluster' -r -F
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand ssh" -l context -d 'Use this context of it' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand ssh" -l cluster -d 'Use this cluster of it' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand ssh" -l user -d 'Use this user of it' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand ssh" -s n -l namespace -d 'In this namespace' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand ssh" -l as -d 'Act as this user' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand ssh" -l as-group -d 'Act as a member of this group; may be given several times' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand ssh" -l request-timeout -d 'How long the API server may take to answer (s, m); 0 is forever' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand ssh" -s h -l help -d 'Print help'
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand ssh" -s V -l version -d 'Print version'
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand scp" -s i -l identity-file -d 'Log in with this key' -r -F
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand scp" -s l -l username -d 'Log in as this user; without it as OpenSSH does, by its configuration or as you' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand scp" -s p -l port -d 'The guest\'s port, if it is not 22' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand scp" -l known-hosts -d 'Keep the keys of guests in FILE' -r -F
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand scp" -s t -l local-ssh-opts -d 'Pass on to OpenSSH; may be given several times' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand scp" -l kubeconfig -d 'Read FILE to find the cluster' -r -F
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand scp" -l context -d 'Use this context of it' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand scp" -l cluster -d 'Use this cluster of it' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand scp" -l user -d 'Use this user of it' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand scp" -s n -l namespace -d 'In this namespace' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand scp" -l as -d 'Act as this user' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand scp" -l as-group -d 'Act as a member of this group; may be given several times' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand scp" -l request-timeout -d 'How long the API server may take to answer (s, m); 0 is forever' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand scp" -s r -l recursive -d 'Copy folders with all that is in them'
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand scp" -l preserve -d 'Keep times and modes'
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand scp" -s h -l help -d 'Print help'
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand scp" -s V -l version -d 'Print version'
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand port-forward" -l address -d 'Listen at this address; may be given several times' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand port-forward" -l kubeconfig -d 'Read FILE to find the cluster' -r -F
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand port-forward" -l context -d 'Use this context of it' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand port-forward" -l cluster -d 'Use this cluster of it' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand port-forward" -l user -d 'Use this user of it' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand port-forward" -s n -l namespace -d 'In this namespace' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand port-forward" -l as -d 'Act as this user' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand port-forward" -l as-group -d 'Act as a member of this group; may be given several times' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand port-forward" -l request-timeout -d 'How long the API server may take to answer (s, m); 0 is forever' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand port-forward" -l stdio -d 'Connect standard input and output to the port, of which there is one'
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand port-forward" -s h -l help -d 'Print help'
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand port-forward" -s V -l version -d 'Print version'
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand image; and not __fish_seen_subcommand_from set history undo help" -l kubeconfig -d 'Read FILE to find the cluster' -r -F
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand image; and not __fish_seen_subcommand_from set history undo help" -l context -d 'Use this context of it' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand image; and not __fish_seen_subcommand_from set history undo help" -l cluster -d 'Use this cluster of it' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand image; and not __fish_seen_subcommand_from set history undo help" -l user -d 'Use this user of it' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand image; and not __fish_seen_subcommand_from set history undo help" -s n -l namespace -d 'In this namespace' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand image; and not __fish_seen_subcommand_from set history undo help" -l as -d 'Act as this user' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand image; and not __fish_seen_subcommand_from set history undo help" -l as-group -d 'Act as a member of this group; may be given several times' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand image; and not __fish_seen_subcommand_from set history undo help" -l request-timeout -d 'How long the API server may take to answer (s, m); 0 is forever' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand image; and not __fish_seen_subcommand_from set history undo help" -s h -l help -d 'Print help'
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand image; and not __fish_seen_subcommand_from set history undo help" -s V -l version -d 'Print version'
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand image; and not __fish_seen_subcommand_from set history undo help" -f -a "set" -d 'Change the image of a machine or a pool'
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand image; and not __fish_seen_subcommand_from set history undo help" -f -a "history" -d 'List the images that a pool has had'
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand image; and not __fish_seen_subcommand_from set history undo help" -f -a "undo" -d 'Have a pool go back to the images and all else of an earlier revision'
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand image; and not __fish_seen_subcommand_from set history undo help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand image; and __fish_seen_subcommand_from set" -s o -l output -d 'Print the objects as JSON, or their names only' -r -f -a "json\t'JSON'
name\t'Types and names'"
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand image; and __fish_seen_subcommand_from set" -l kubeconfig -d 'Read FILE to find the cluster' -r -F
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand image; and __fish_seen_subcommand_from set" -l context -d 'Use this context of it' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand image; and __fish_seen_subcommand_from set" -l cluster -d 'Use this cluster of it' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand image; and __fish_seen_subcommand_from set" -l user -d 'Use this user of it' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand image; and __fish_seen_subcommand_from set" -s n -l namespace -d 'In this namespace' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand image; and __fish_seen_subcommand_from set" -l as -d 'Act as this user' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand image; and __fish_seen_subcommand_from set" -l as-group -d 'Act as a member of this group; may be given several times' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand image; and __fish_seen_subcommand_from set" -l request-timeout -d 'How long the API server may take to answer (s, m); 0 is forever' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand image; and __fish_seen_subcommand_from set" -l dry-run -d 'Have the API server check the change, and do nothing'
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand image; and __fish_seen_subcommand_from set" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand image; and __fish_seen_subcommand_from set" -s V -l version -d 'Print version'
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand image; and __fish_seen_subcommand_from history" -s o -l output -d 'Print the objects as JSON, or their names only' -r -f -a "json\t'JSON'
name\t'Types and names'"
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand image; and __fish_seen_subcommand_from history" -l kubeconfig -d 'Read FILE to find the cluster' -r -F
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand image; and __fish_seen_subcommand_from history" -l context -d 'Use this context of it' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand image; and __fish_seen_subcommand_from history" -l cluster -d 'Use this cluster of it' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand image; and __fish_seen_subcommand_from history" -l user -d 'Use this user of it' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand image; and __fish_seen_subcommand_from history" -s n -l namespace -d 'In this namespace' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand image; and __fish_seen_subcommand_from history" -l as -d 'Act as this user' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand image; and __fish_seen_subcommand_from history" -l as-group -d 'Act as a member of this group; may be given several times' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand image; and __fish_seen_subcommand_from history" -l request-timeout -d 'How long the API server may take to answer (s, m); 0 is forever' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand image; and __fish_seen_subcommand_from history" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand image; and __fish_seen_subcommand_from history" -s V -l version -d 'Print version'
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand image; and __fish_seen_subcommand_from undo" -l to-revision -d 'Go back to this revision; the one before the last change without it' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand image; and __fish_seen_subcommand_from undo" -s o -l output -d 'Print the objects as JSON, or their names only' -r -f -a "json\t'JSON'
name\t'Types and names'"
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand image; and __fish_seen_subcommand_from undo" -l kubeconfig -d 'Read FILE to find the cluster' -r -F
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand image; and __fish_seen_subcommand_from undo" -l context -d 'Use this context of it' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand image; and __fish_seen_subcommand_from undo" -l cluster -d 'Use this cluster of it' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand image; and __fish_seen_subcommand_from undo" -l user -d 'Use this user of it' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand image; and __fish_seen_subcommand_from undo" -s n -l namespace -d 'In this namespace' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand image; and __fish_seen_subcommand_from undo" -l as -d 'Act as this user' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand image; and __fish_seen_subcommand_from undo" -l as-group -d 'Act as a member of this group; may be given several times' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand image; and __fish_seen_subcommand_from undo" -l request-timeout -d 'How long the API server may take to answer (s, m); 0 is forever' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand image; and __fish_seen_subcommand_from undo" -l dry-run -d 'Have the API server check the change, and do nothing'
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand image; and __fish_seen_subcommand_from undo" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand image; and __fish_seen_subcommand_from undo" -s V -l version -d 'Print version'
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand image; and __fish_seen_subcommand_from help" -f -a "set" -d 'Change the image of a machine or a pool'
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand image; and __fish_seen_subcommand_from help" -f -a "history" -d 'List the images that a pool has had'
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand image; and __fish_seen_subcommand_from help" -f -a "undo" -d 'Have a pool go back to the images and all else of an earlier revision'
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand image; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand status" -s l -l selector -d 'Only machines with these labels' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand status" -s o -l output -d 'Print the objects as JSON, or their names only' -r -f -a "json\t'JSON'
name\t'Types and names'"
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand status" -l kubeconfig -d 'Read FILE to find the cluster' -r -F
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand status" -l context -d 'Use this context of it' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand status" -l cluster -d 'Use this cluster of it' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand status" -l user -d 'Use this user of it' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand status" -s n -l namespace -d 'In this namespace' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand status" -l as -d 'Act as this user' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand status" -l as-group -d 'Act as a member of this group; may be given several times' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand status" -l request-timeout -d 'How long the API server may take to answer (s, m); 0 is forever' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand status" -s w -l watch -d 'Go on, and show what changes'
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand status" -s A -l all-namespaces -d 'Of all namespaces'
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand status" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand status" -s V -l version -d 'Print version'
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand completion" -l kubeconfig -d 'Read FILE to find the cluster' -r -F
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand completion" -l context -d 'Use this context of it' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand completion" -l cluster -d 'Use this cluster of it' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand completion" -l user -d 'Use this user of it' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand completion" -s n -l namespace -d 'In this namespace' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand completion" -l as -d 'Act as this user' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand completion" -l as-group -d 'Act as a member of this group; may be given several times' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand completion" -l request-timeout -d 'How long the API server may take to answer (s, m); 0 is forever' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand completion" -s h -l help -d 'Print help'
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand completion" -s V -l version -d 'Print version'
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand ssh-proxy" -l port -d 'Another TCP port of the guest\'s' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand ssh-proxy" -l kubeconfig -d 'Read FILE to find the cluster' -r -F
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand ssh-proxy" -l context -d 'Use this context of it' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand ssh-proxy" -l cluster -d 'Use this cluster of it' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand ssh-proxy" -l user -d 'Use this user of it' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand ssh-proxy" -s n -l namespace -d 'In this namespace' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand ssh-proxy" -l as -d 'Act as this user' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand ssh-proxy" -l as-group -d 'Act as a member of this group; may be given several times' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand ssh-proxy" -l request-timeout -d 'How long the API server may take to answer (s, m); 0 is forever' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand ssh-proxy" -s h -l help -d 'Print help'
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand ssh-proxy" -s V -l version -d 'Print version'
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand __complete" -l kubeconfig -d 'Read FILE to find the cluster' -r -F
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand __complete" -l context -d 'Use this context of it' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand __complete" -l cluster -d 'Use this cluster of it' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand __complete" -l user -d 'Use this user of it' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand __complete" -s n -l namespace -d 'In this namespace' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand __complete" -l as -d 'Act as this user' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand __complete" -l as-group -d 'Act as a member of this group; may be given several times' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand __complete" -l request-timeout -d 'How long the API server may take to answer (s, m); 0 is forever' -r
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand __complete" -s h -l help -d 'Print help'
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand __complete" -s V -l version -d 'Print version'
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand help; and not __fish_seen_subcommand_from start stop restart pause resume resize console ssh scp port-forward image status completion ssh-proxy __complete help" -f -a "start" -d 'Start machines'
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand help; and not __fish_seen_subcommand_from start stop restart pause resume resize console ssh scp port-forward image status completion ssh-proxy __complete help" -f -a "stop" -d 'Stop machines'
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand help; and not __fish_seen_subcommand_from start stop restart pause resume resize console ssh scp port-forward image status completion ssh-proxy __complete help" -f -a "restart" -d 'Stop machines that run, and start them again'
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand help; and not __fish_seen_subcommand_from start stop restart pause resume resize console ssh scp port-forward image status completion ssh-proxy __complete help" -f -a "pause" -d 'Have guests stand still'
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand help; and not __fish_seen_subcommand_from start stop restart pause resume resize console ssh scp port-forward image status completion ssh-proxy __complete help" -f -a "resume" -d 'Have guests go on that stand still'
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand help; and not __fish_seen_subcommand_from start stop restart pause resume resize console ssh scp port-forward image status completion ssh-proxy __complete help" -f -a "resize" -d 'Change machines\' processors and memory, also while they run'
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand help; and not __fish_seen_subcommand_from start stop restart pause resume resize console ssh scp port-forward image status completion ssh-proxy __complete help" -f -a "console" -d 'Connect to a machine\'s console'
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand help; and not __fish_seen_subcommand_from start stop restart pause resume resize console ssh scp port-forward image status completion ssh-proxy __complete help" -f -a "ssh" -d 'Open a shell or run a command in a machine'
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand help; and not __fish_seen_subcommand_from start stop restart pause resume resize console ssh scp port-forward image status completion ssh-proxy __complete help" -f -a "scp" -d 'Copy files to or from a machine'
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand help; and not __fish_seen_subcommand_from start stop restart pause resume resize console ssh scp port-forward image status completion ssh-proxy __complete help" -f -a "port-forward" -d 'Have local ports lead to a machine\'s'
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand help; and not __fish_seen_subcommand_from start stop restart pause resume resize console ssh scp port-forward image status completion ssh-proxy __complete help" -f -a "image" -d 'Change the image of a machine or a pool, or go back'
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand help; and not __fish_seen_subcommand_from start stop restart pause resume resize console ssh scp port-forward image status completion ssh-proxy __complete help" -f -a "status" -d 'Show what machines and pools are doing'
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand help; and not __fish_seen_subcommand_from start stop restart pause resume resize console ssh scp port-forward image status completion ssh-proxy __complete help" -f -a "completion" -d 'Print a completion script for a shell'
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand help; and not __fish_seen_subcommand_from start stop restart pause resume resize console ssh scp port-forward image status completion ssh-proxy __complete help" -f -a "ssh-proxy" -d 'Connect standard input and output to a machine\'s ssh server; `ssh` starts this'
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand help; and not __fish_seen_subcommand_from start stop restart pause resume resize console ssh scp port-forward image status completion ssh-proxy __complete help" -f -a "__complete" -d 'Say what may follow on the command line; kubectl_complete-bootwright starts this'
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand help; and not __fish_seen_subcommand_from start stop restart pause resume resize console ssh scp port-forward image status completion ssh-proxy __complete help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand help; and __fish_seen_subcommand_from image" -f -a "set" -d 'Change the image of a machine or a pool'
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand help; and __fish_seen_subcommand_from image" -f -a "history" -d 'List the images that a pool has had'
complete -c kubectl-bootwright -n "__fish_kubectl_bootwright_using_subcommand help; and __fish_seen_subcommand_from image" -f -a "undo" -d 'Have a pool go back to the images and all else of an earlier revision'
