// Which bytes of a message are there. Chunks may come in any order and may overlap (RFC 4975, 7.3.1).

/** More pieces than any honest sender leaves apart. */
const PIECES_MAX = 1024;

export class RangeSet {
    /** Pairs of start and end, in order, apart from each other. */
    #pieces = [];

    /** @returns {boolean} false if there would be too many pieces */
    add(start, end) {
        if (end <= start) return true;
        let first = this.#pieces.findIndex((piece) => piece.end >= start);
        if (first < 0) first = this.#pieces.length;
        let last = first;
        while (last < this.#pieces.length && this.#pieces[last].start <= end) {
            start = Math.min(start, this.#pieces[last].start);
            end = Math.max(end, this.#pieces[last].end);
            last++;
        }
        this.#pieces.splice(first, last - first, { start, end });
        return this.#pieces.length <= PIECES_MAX;
    }

    covers(total) {
        if (total === 0) return true;
        const [first] = this.#pieces;
        return first !== undefined && first.start === 0 && first.end >= total;
    }

    get bytes() {
        return this.#pieces.reduce((sum, { start, end }) => sum + end - start, 0);
    }

    get end() {
        return this.#pieces.at(-1)?.end ?? 0;
    }
}
