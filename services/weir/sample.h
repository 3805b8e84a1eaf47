/*
 * sample: what a first start on a state folder begins with: upstream events in a file for weir emit, and
 * stock, in stock.json beside it. Without a file the stock is of plain goods.
 */
#ifndef WEIR_SAMPLE_H
#define WEIR_SAMPLE_H

#include "ask.h"

#include "base/json.h"

#include <limits.h>

struct sample_settings {
    const char *given;    /* SAMPLE: a file, or "none"; NULL: that of the tree or of the installation */
    const char *programs; /* the folder of this program */
    const char *folder;   /* where it is noted that the sample was sent */
    int64_t orders_max;   /* one that places more is not sent; 0: no limit */
};

struct sample {
    char file[PATH_MAX]; /* to be sent; empty: none is */
    int64_t orders;      /* that it places; 0 without */
    json_t *stock;       /* [{"sku", "available"}] */
    struct text *goods;  /* SKUs of which there is plenty, at most LOAD_GOODS_MAX; their text is stock's */
    size_t goods_count;
};

/* sample is all zero before. A file that was given and is not there: OUTAGE, EXIT_NO_INPUT. */
MUST_CHECK enum outcome sample_read(struct sample *sample, const struct sample_settings *settings,
                                    struct error *error);
/* One of sample->stock, at the inventory of 127.0.0.1:port. Only what was never set: a start goes on from
 * what is there. */
MUST_CHECK enum outcome sample_stock(struct ask *ask, int port, const json_t *item, struct error *error);
/* It was sent: no later start on this folder sends it again. */
MUST_CHECK enum outcome sample_sent(const struct sample_settings *settings, struct error *error);
void sample_free(struct sample *sample);

#endif
