# Reads the CSV of bench.sh; prints the table of targets and results, and writes the chart (`chart` names the file, `vaes`
# tells whether the CPU has VAES, `counter` what has counted system calls).

function row(id, text, unit, target, reference, note) {
    count++
    ids[count] = id; texts[id] = text; units[id] = unit; targets[id] = target; references[id] = reference; notes[id] = note
}

function without(rows, why) {
    reasons[++reason_count] = rows ": " why
}

BEGIN {
    FS = ","
    # What belongs to the machine has a target for the ratio to a reference: a subject, or, with a =, another row. What does
    # not, memory, calls, page faults, and what a clock makes, has one for the value.
    # Where AES is fast, all else weighs more: the proxies' copies, and ours.
    aes = vaes == "yes" ? "with VAES" : "without VAES"
    heading[1] = "Targets"
    row("messages-16", "200-byte messages, window 16", "us", 0.16, "kamailio", "")
    row("alone-p50", "200-byte messages, window 1: p50", "us", 0.75, "kamailio", "end to end")
    row("alone-cpu", "200-byte messages, window 1: CPU", "us", 0.60, "kamailio", "")
    row("alone-calls", "200-byte messages, window 1: system calls of the core for each", "calls", 5, "", "both directions, answered")
    row("chunks-2k-yes", "2 kB chunks, Failure-Report yes", "s/GB", 0.11, "kamailio", "")
    row("chunks-10k-no", "10 kB chunks, Failure-Report no", "s/GB", 1.10, "=giant-one", "")
    row("chunks-10k-yes", "10 kB chunks, Failure-Report yes", "s/GB", 1.10, "=chunks-10k-no", "")
    row("giant-one", "one giant SEND, one client behind the relay", "s/GB", vaes == "yes" ? 0.47 : 0.68, "haproxy", aes)
    row("auth", "connect, full handshake, AUTH, close", "us", 0.33, "kamailio", "")
    row("idle", "idle authenticated session over TLS", "bytes", 11264, "", "RSS")
    row("idle-calls", "idle core, system calls a second", "calls/s", 60, "", "")
    row("page-faults", "page faults for each GB, the worst row that moves files", "/GB", 2000, "", "")
    heading[count + 1] = "More"
    row("giant-both", "giant-one, both clients behind the relay", "s/GB", 1.10, "=giant-one", "")
    row("sessions-16", "16 sessions at once", "s/GB", vaes == "yes" ? 0.55 : 0.80, "haproxy", aes)
    row("sessions-200", "200 sessions at once", "s/GB", vaes == "yes" ? 0.55 : 0.80, "haproxy", aes)
    row("messages-8x8", "200-byte messages, 8 sessions, window 8", "us", 1.00, "=messages-16", "")
    row("alone-p99", "200-byte messages, window 1: p99", "us", 1.00, "kamailio", "end to end")
    row("beside-file", "200-byte messages beside a file: p99", "us", 5000, "", "end to end; turns are made by a clock")
    row("giant-web", "giant-both by WebSocket, cut into messages of 64 KiB that are answered", "s/GB", 1.25, "=giant-both", "")
    row("chunks-64k", "64 KiB chunks, answered, both clients behind the relay", "s/GB", 1.10, "=giant-both", "")
    row("chunks-64k-web", "the same by WebSocket, as a page sends", "s/GB", 1.25, "=chunks-64k", "")
    row("messages-both", "200-byte messages, window 16, both clients behind the relay", "us", 1.15, "=messages-16", "")
    row("messages-web", "the same by WebSocket", "us", 1.15, "=messages-both", "")
    row("idle-web", "idle authenticated session by WebSocket", "bytes", 16384, "", "RSS")
    row("two-cores", "one relay on two cores, against two relays", "s/GB", 1.05, "apart", "")
    row("split", "pairs on two cores, against pairs on one", "s/GB", 1.08, "local", "")
    row("allocations", "heap allocations per chunk, pure core", "", 0, "", "")
    # What keeps Kamailio from the other rows.
    without("giant-one, giant-both, sessions-16, sessions-200, chunks-64k, beside-file", \
        "it reads a frame whole, into a buffer of 10 kB, and drops the connection of a longer one")
    without("idle", "its processes share memory, and RSS counts it in each")
    without("alone-calls, idle-calls, page-faults, two-cores, split, allocations", "they have no reference but our own")
    without("messages-both", "it calls itself for a path that leads through it twice")
    without("giant-web, chunks-64k-web, messages-web, idle-web", "they are compared with ours by TCP")
}

NR > 1 {
    seen[$2, $3]++
    values[$2, $3, seen[$2, $3]] = $4
    by_round[$2, $3, $1] = $4
    rates[$2, $3, seen[$2, $3]] = $8
    if ($10 != "") { faults[$2, $3, $1] = $10; moving[$2] = 1 }
    # How much of its core the load took: near 1, it is the bottleneck.
    if ($7 > 0 && $5 / $7 > busiest[$2]) busiest[$2] = $5 / $7
    if (!($3 in known)) { known[$3] = 1; subjects[++subject_count] = $3 }
    if ($1 > rounds) rounds = $1
}

# Sorts into `sorted`, and returns the median.
function median(list, n,    i, j, swap) {
    for (i = 1; i <= n; i++) sorted[i] = list[i] + 0
    for (i = 2; i <= n; i++)
        for (j = i; j > 1 && sorted[j] < sorted[j - 1]; j--) { swap = sorted[j]; sorted[j] = sorted[j - 1]; sorted[j - 1] = swap }
    return n % 2 ? sorted[(n + 1) / 2] : (sorted[n / 2] + sorted[n / 2 + 1]) / 2
}

function collect(array, id, subject,    i, n) {
    n = seen[id, subject]
    for (i = 1; i <= n; i++) list[i] = array[id, subject, i]
    return n
}

function shown(value, unit) {
    if (unit == "bytes" || unit == "/GB") return sprintf("%.0f", value)
    return value >= 100 ? sprintf("%.0f", value) : value >= 10 ? sprintf("%.1f", value) : sprintf("%.3f", value)
}

# The median of a subject in a case with its extremes, or a dash.
function cell(id, subject,    n, middle) {
    n = collect(values, id, subject)
    if (!n) return "-"
    middle = median(list, n)
    if (units[id] == "s/GB" && middle == 0) return "no CPU time"
    return n == 1 ? shown(middle, units[id]) : sprintf("%s (%s-%s)", shown(middle, units[id]), shown(sorted[1], units[id]), shown(sorted[n], units[id]))
}

# The median of the ratios to the reference within each round, or nothing.
function ratio(id, subject,    reference, other, r, n) {
    reference = references[id]; other = id
    if (reference ~ /^=/) { other = substr(reference, 2); reference = subject }
    n = 0
    for (r = 1; r <= rounds; r++)
        if ((id, subject, r) in by_round && by_round[other, reference, r] > 0) list[++n] = by_round[id, subject, r] / by_round[other, reference, r]
    return n ? median(list, n) : ""
}

# Of a row in steady state, the second half of what it moves.
function faults_of(id, subject,    r, n) {
    n = 0
    for (r = 1; r <= rounds; r++) if ((id, subject, r) in faults) list[++n] = faults[id, subject, r]
    return n ? median(list, n) : ""
}

# Makes the row of the worst out of all.
function find_faults(    s, c, id, subject, value) {
    for (s = 1; s <= subject_count; s++) {
        subject = subjects[s]
        if (subject !~ /^(relay|baseline|against)$/) continue
        for (c = 1; c <= count; c++) {
            id = ids[c]
            value = id in moving ? faults_of(id, subject) : ""
            if (value == "") continue
            if (subject == "relay") each = each sprintf("%s%s %.0f", each == "" ? "" : ", ", id, value)
            if (!seen["page-faults", subject] || value > values["page-faults", subject, 1]) {
                seen["page-faults", subject] = 1
                values["page-faults", subject, 1] = by_round["page-faults", subject, 1] = value
                if (subject == "relay") notes["page-faults"] = id
            }
        }
    }
}

END {
    layout = "%-15s %-10s %-30s %-34s %-6s %-8s %s\n"
    find_faults()
    for (c = 1; c <= count; c++) {
        id = ids[c]
        if (c in heading) { title = heading[c]; headed = 0 }
        if (!seen[id, "relay"]) continue
        if (!headed++ && printed++) print ""
        if (headed == 1) printf layout, title, "target", "relay: median (range)", "against", "ratio", "", ""
        n = collect(values, id, "relay"); value = median(list, n)
        against = ""; times = ""; verdict = ""
        if (references[id] != "") {
            times = ratio(id, "relay")
            against = references[id] ~ /^=/ ? substr(references[id], 2) : references[id] " " cell(id, references[id])
            target = "<= " targets[id] " x"
            if (times != "") verdict = times <= targets[id] ? "met" : "missed"
            else { sub(/^=/, "", references[id]); against = references[id] ": not measured"; verdict = "?" }
        } else {
            target = "<= " targets[id]
            verdict = value <= targets[id] ? "met" : "missed"
            if (seen[id, "relay-others"]) {
                against = "other threads " cell(id, "relay-others")
                if (seen[id, "relay-strace"]) against = against ", strace: " cell(id, "relay-strace")
                notes[id] = (notes[id] == "" ? "" : notes[id] "; ") "counted by " counter
            }
        }
        busy = busiest[id] > 0.9 ? sprintf("; the load took %.0f %% of its core", 100 * busiest[id]) : ""
        printf layout, id, target, cell(id, "relay") " " units[id], against, (times == "" ? "" : sprintf("%.2f", times)), verdict, \
            texts[id] (notes[id] == "" ? "" : " (" notes[id] ")") busy
    }
    if (each != "") printf "\nPage faults for each GB, in the second half of what a row moves (of two-cores in all): %s\n", each
    others()
    if (chart != "") draw()
}

# Subjects with rows that no target speaks of.
function others(    s, c, id, subject) {
    for (s = 1; s <= subject_count; s++) {
        subject = subjects[s]
        if (subject ~ /^(relay|haproxy|apart|local)$|-others$|-strace$/) continue
        printf "\n%s\n", subject
        for (c = 1; c <= count; c++) {
            id = ids[c]
            if (!seen[id, subject]) continue
            n = 0
            for (r = 1; r <= rounds; r++)
                if (by_round[id, subject, r] > 0 && (id, "relay", r) in by_round) list[++n] = by_round[id, "relay", r] / by_round[id, subject, r]
            times = n ? median(list, n) : ""
            printf "  %-15s %-33s %s\n", id, cell(id, subject) " " units[id], (times == "" ? "" : sprintf("the relay takes %.2f x of it", times))
        }
        if (subject == "kamailio") for (n = 1; n <= reason_count; n++) print "  not " reasons[n]
    }
}

# Bars for throughput and CPU per GB of the cases that move files: medians, with a line from minimum to maximum. Beside
# Kamailio's all others would be short.
function draw(    c, s, id, y, panel, colour, n) {
    for (s = 1; s <= subject_count; s++) if (subjects[s] !~ /^kamailio$|-others$|-strace$/) subjects[++n] = subjects[s]
    subject_count = n
    split("#1f6f8b #d98e04 #6b8e23 #8b3a62 #777777", colours, " ")
    bar = 14; left = 250; panel_width = 360; bars = 0; cases = 0
    for (c = 1; c <= count; c++) {
        id = ids[c]; any = 0
        if (units[id] != "s/GB") continue
        for (s = 1; s <= subject_count; s++) if (seen[id, subjects[s]]) { bars++; any = 1 }
        cases += any
    }
    height = 70 + bars * (bar + 2) + cases * 12 + 30
    printf "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" font-family=\"sans-serif\" font-size=\"11\">\n", left + 2 * panel_width + 60, height > chart
    print "<rect width=\"100%\" height=\"100%\" fill=\"white\"/>" > chart
    for (s = 1; s <= subject_count; s++) {
        printf "<rect x=\"%d\" y=\"10\" width=\"10\" height=\"10\" fill=\"%s\"/><text x=\"%d\" y=\"19\">%s</text>\n", left + (s - 1) * 100, colours[(s - 1) % 5 + 1], left + 14 + (s - 1) * 100, subjects[s] > chart
    }
    panels("CPU seconds per GB", values, left)
    panels("Throughput, MB/s (on this machine, at this time)", rates, left + panel_width + 30)
    print "</svg>" > chart
    close(chart)
}

function panels(title, array, x,    c, s, id, y, top, n, middle) {
    printf "<text x=\"%d\" y=\"45\" font-weight=\"bold\">%s</text>\n", x, title > chart
    top = 0
    for (c = 1; c <= count; c++)
        for (s = 1; s <= subject_count; s++)
            if (units[ids[c]] == "s/GB") for (n = 1; n <= seen[ids[c], subjects[s]]; n++) if (array[ids[c], subjects[s], n] + 0 > top) top = array[ids[c], subjects[s], n] + 0
    if (top == 0) return
    y = 60
    for (c = 1; c <= count; c++) {
        id = ids[c]; any = 0
        if (units[id] != "s/GB") continue
        for (s = 1; s <= subject_count; s++) {
            if (!seen[id, subjects[s]]) continue
            if (!any++ && x == left) printf "<text x=\"%d\" y=\"%d\" text-anchor=\"end\">%s</text>\n", left - 8, y + 11, id > chart
            middle = median(list, collect(array, id, subjects[s]))
            n = seen[id, subjects[s]]
            if (middle == 0) { y += bar + 2; continue }
            printf "<rect x=\"%d\" y=\"%d\" width=\"%.1f\" height=\"%d\" fill=\"%s\"/>", x, y, middle / top * (panel_width - 60), bar, colours[(s - 1) % 5 + 1] > chart
            printf "<line x1=\"%.1f\" x2=\"%.1f\" y1=\"%d\" y2=\"%d\" stroke=\"black\"/>", x + sorted[1] / top * (panel_width - 60), x + sorted[n] / top * (panel_width - 60), y + bar / 2, y + bar / 2 > chart
            printf "<text x=\"%.1f\" y=\"%d\">%s</text>\n", x + sorted[n] / top * (panel_width - 60) + 4, y + 11, shown(middle, "") > chart
            y += bar + 2
        }
        if (any) y += 12
    }
}
