// A rectangle of a JPEG, decoded without the rest: libjpeg-turbo skips the rows above it, stops after its last row, and
// transforms only the blocks that it touches. Where the data are damaged, the pixels are what libjpeg makes of them, and
// the same each time.

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>

// Chroma at half the resolution is interpolated from its neighbours, so the pixels beside the rectangle count as well.
#define MARGIN 2
#define CHANNELS 3
// As OpenCV's: a damaged header must not make us fill all memory.
#define MAX_PIXELS (1LL << 30)

typedef struct {
  struct jpeg_error_mgr base;  // first: libjpeg hands out its address
  jmp_buf failed;
} ErrorManager;

static void Fail(j_common_ptr jpeg) { longjmp(((ErrorManager *)jpeg->err)->failed, 1); }

static void Ignore(j_common_ptr jpeg, int level) {
  (void)jpeg;
  (void)level;
}

static void SetErrorManager(struct jpeg_decompress_struct *jpeg, ErrorManager *errors) {
  jpeg->err = jpeg_std_error(&errors->base);
  errors->base.error_exit = Fail;
  errors->base.emit_message = Ignore;
}

// Whether a marker with EXIF data was read; it may tell to turn the image.
static int HasExif(const struct jpeg_decompress_struct *jpeg) {
  for (jpeg_saved_marker_ptr marker = jpeg->marker_list; marker; marker = marker->next)
    if (marker->data_length >= 6 && memcmp(marker->data, "Exif\0\0", 6) == 0) return 1;
  return 0;
}

static int ReadHeader(struct jpeg_decompress_struct *jpeg, const unsigned char *data, size_t size) {
  jpeg_create_decompress(jpeg);
  jpeg_mem_src(jpeg, data, size);
  jpeg_save_markers(jpeg, JPEG_APP0 + 1, 6);
  jpeg_read_header(jpeg, TRUE);
  return (jpeg->num_components == 1 || jpeg->num_components == CHANNELS) && !HasExif(jpeg) &&
         (long long)jpeg->image_height * jpeg->image_width <= MAX_PIXELS;
}

// The height and width of a JPEG of which jpeg_part_decode can decode parts. Returns 1, or 0 for any other content.
int jpeg_part_size(const unsigned char *data, size_t size, int *height, int *width) {
  struct jpeg_decompress_struct jpeg;
  ErrorManager errors;
  memset(&jpeg, 0, sizeof jpeg);
  SetErrorManager(&jpeg, &errors);
  if (setjmp(errors.failed)) {
    jpeg_destroy_decompress(&jpeg);
    return 0;
  }
  int ok = ReadHeader(&jpeg, data, size);
  *height = jpeg.image_height;
  *width = jpeg.image_width;
  jpeg_destroy_decompress(&jpeg);
  return ok;
}

// Whether the data go on to a JPEG's end marker, as those of a file that was cut off do not. Only markers are looked at:
// the headers' lengths, and in what follows a scan's header each 0xff that is no part of the compressed data.
int jpeg_part_has_end(const unsigned char *data, size_t size) {
  size_t place = 2;  // behind the marker of the start
  while (place < size) {
    const unsigned char *found = memchr(data + place, 0xff, size - place);
    if (!found) return 0;
    place = found - data + 1;
    while (place < size && data[place] == 0xff) ++place;  // a marker may begin with several
    if (place >= size) return 0;
    const unsigned char marker = data[place++];
    if (marker == 0xd9) return 1;  // EOI
    // 0xff00 is compressed data; TEM, RST0 to RST7 and SOI stand alone. All others have a length, which counts itself.
    if (marker <= 0x01 || (marker >= 0xd0 && marker <= 0xd8)) continue;
    if (size - place < 2) return 0;
    place += (size_t)data[place] << 8 | data[place + 1];
  }
  return 0;
}

static int Min(int a, int b) { return a < b ? a : b; }
static int Max(int a, int b) { return a > b ? a : b; }

// Decodes a rectangle, in pixels, into `out`, uint8 BGR [height, width, 3]. Returns 1, or 0 if it is not inside the image
// or libjpeg gives up.
int jpeg_part_decode(const unsigned char *data, size_t size, int top, int left, int height, int width,
                     unsigned char *out) {
  struct jpeg_decompress_struct jpeg;
  ErrorManager errors;
  unsigned char *volatile row = NULL;  // set between setjmp and longjmp
  memset(&jpeg, 0, sizeof jpeg);
  SetErrorManager(&jpeg, &errors);
  if (setjmp(errors.failed)) {
    jpeg_destroy_decompress(&jpeg);
    free(row);
    return 0;
  }
  if (!ReadHeader(&jpeg, data, size)) Fail((j_common_ptr)&jpeg);
  jpeg.out_color_space = JCS_EXT_BGR;
  jpeg_start_decompress(&jpeg);
  const int full_height = jpeg.output_height, full_width = jpeg.output_width;
  if (top < 0 || left < 0 || height < 1 || width < 1 || height > full_height - top || width > full_width - left)
    Fail((j_common_ptr)&jpeg);

  const int first_row = Max(0, top - MARGIN), first_column = Max(0, left - MARGIN);
  // libjpeg moves the first column to the left, to where a block begins.
  JDIMENSION begin = first_column, columns = Min(full_width, left + width + MARGIN) - first_column;
  jpeg_crop_scanline(&jpeg, &begin, &columns);
  row = malloc((size_t)jpeg.output_width * CHANNELS);
  if (!row) Fail((j_common_ptr)&jpeg);
  if (first_row > 0) jpeg_skip_scanlines(&jpeg, first_row);
  const size_t bytes = (size_t)width * CHANNELS;
  while ((int)jpeg.output_scanline < top + height) {
    const int number = jpeg.output_scanline;
    JSAMPROW rows[1] = {row};
    jpeg_read_scanlines(&jpeg, rows, 1);
    if (number >= top) memcpy(out + (number - top) * bytes, row + (left - begin) * CHANNELS, bytes);
  }
  jpeg_destroy_decompress(&jpeg);
  free(row);
  return 1;
}
