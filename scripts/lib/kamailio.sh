# shellcheck shell=bash disable=SC2034,SC2154 # a part of the scripts that start Kamailio
# Kamailio from Debian's packages as an MSRP relay: what its configs have in common.

kamailio_packages=(kamailio kamailio-tls-modules)

# Where its modules are, in `modules`.
find_kamailio() {
    modules=$(dpkg-query -L kamailio 2> /dev/null | grep '/msrp\.so$') || {
        echo "$script: the package kamailio has no msrp.so" >&2
        return 1
    }
    modules=$(dirname "$modules")
}

# Modules and routes: AUTH for one realm, whose users all have one password, and SEND, REPORT and responses relayed.
kamailio_relay() { # HOST:PORT-OF-USE-PATH REALM PASSWORD [LINES-FOR-EACH-REQUEST]
    cat <<CONFIG
mpath="$modules/"
loadmodule "pv.so"
loadmodule "tls.so"
loadmodule "sl.so"
loadmodule "kex.so"
loadmodule "auth.so"
loadmodule "xlog.so"
loadmodule "msrp.so"
modparam("tls", "config", "$scratch/tls.cfg")
modparam("auth", "nonce_count", 1)
modparam("auth", "qop", "auth")
modparam("msrp", "cmap_size", 8)
modparam("msrp", "use_path_addr", "$1")

request_route {
    exit;
}

event_route[msrp:frame-in] {
    msrp_reply_flags("1");
    if (msrp_is_reply()) {
        msrp_relay();
        exit;
    }
${4:-}
    if (\$msrp(method) == "AUTH") {
        if (\$msrp(nexthops) > 0) {
            msrp_relay();
            exit;
        }
        \$var(password) = "$3";
        if (!pv_www_authenticate("$2", "\$var(password)", "0", "\$msrp(method)")) {
            if (auth_get_www_authenticate("$2", "1", "\$var(challenge)")) {
                msrp_reply("401", "Unauthorized", "\$var(challenge)");
            } else {
                msrp_reply("500", "Server Error");
            }
            exit;
        }
        msrp_cmap_save();
        exit;
    }
    if (\$msrp(method) != "SEND" && \$msrp(method) != "REPORT") {
        msrp_reply("501", "Not Implemented");
        exit;
    }
    if (\$msrp(nexthops) == 1) {
        if (!msrp_cmap_lookup()) {
            msrp_reply("481", "No Such Session");
            exit;
        }
        msrp_relay_flags("1");
    }
    # REPORTs are not answered: msrp_reply takes care of that.
    msrp_reply("200", "OK");
    msrp_relay();
}
CONFIG
}
