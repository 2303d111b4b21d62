/** One list, fetched page by page. */

/** What the responses of all lists have in common. */
export interface Page {
  readonly nextPageToken: string;
  readonly revision: bigint;
  readonly resumeToken: string;
}

/**
 * Iterates over all items of a list, once, and fetches further pages on the way.
 *
 * All pages show `revision`; a watch that starts at `resumeToken` has no gap to the list. Later pages may throw a
 * `HostdevError` with reason `REVISION_COMPACTED` when a page token has expired: start again.
 */
export class Listing<Item> implements AsyncIterable<Item> {
  readonly #items: AsyncGenerator<Item, void, undefined>;

  private constructor(
    readonly revision: bigint,
    readonly resumeToken: string,
    items: AsyncGenerator<Item, void, undefined>,
  ) {
    this.#items = items;
  }

  /** Fetches the first page at once, so that a refusal is thrown by the call that made the listing. */
  static async open<P extends Page, Item>(
    fetch: (pageToken: string) => Promise<P>,
    items: (page: P) => Iterable<Item>,
  ): Promise<Listing<Item>> {
    const first = await fetch("");
    return new Listing(first.revision, first.resumeToken, walk(first, fetch, items));
  }

  [Symbol.asyncIterator](): AsyncIterator<Item, void, undefined> {
    return this.#items;
  }

  /** All items that were not iterated over yet. */
  async toArray(): Promise<Item[]> {
    const all: Item[] = [];
    for await (const item of this.#items) all.push(item);
    return all;
  }
}

async function* walk<P extends Page, Item>(
  first: P,
  fetch: (pageToken: string) => Promise<P>,
  items: (page: P) => Iterable<Item>,
): AsyncGenerator<Item, void, undefined> {
  // A page may be empty or short without being the last: only the token tells.
  for (let page = first; ; page = await fetch(page.nextPageToken)) {
    yield* items(page);
    if (!page.nextPageToken) return;
  }
}
